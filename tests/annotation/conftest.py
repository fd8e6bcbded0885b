"""Fixtures of the tests of annotation: phantoms whose unlabeled cases somebody labels."""

import pytest
from workbench import InProcess


@pytest.fixture
def in_process(monkeypatch):
    monkeypatch.setattr("nnunet_ssl.pools.ProcessPoolExecutor", InProcess)


@pytest.fixture
def phantom_dataset(phantom_3d, tmp_path, monkeypatch, in_process):
    """A private copy of the phantom in 3D: 4 labeled cases, 5 unlabeled ones, 1 of test, 2 folds."""
    return phantom_3d.copy(tmp_path).use(monkeypatch)


@pytest.fixture
def pictures(phantom_2d_regions, tmp_path, monkeypatch, in_process):
    """The same in 2D with two regions: organs (1, 2) and, within, kidney (2)."""
    return phantom_2d_regions.copy(tmp_path).use(monkeypatch)
