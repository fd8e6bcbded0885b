"""Fixtures of the trainings' tests."""

import pytest
from donors import DONORS, write_donor
from lineages import TRAINERS, in_one_process, train


@pytest.fixture
def in_one_process_without_pictures(monkeypatch):
    """No workers, so that runs repeat; nnU-Net draws for two seconds per epoch, the picture has a test of its own."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setattr("nnunet_ssl.training.progress.ProgressLogger.plot_progress_png", lambda *args: None)


@pytest.fixture(scope="session")
def trained(phantom_3d, tmp_path_factory):
    """Fold 0 trained by both trainers, to the end of nnU-Net's validation."""
    dataset = phantom_3d.copy(tmp_path_factory.mktemp("trained"))
    with pytest.MonkeyPatch.context() as patched:
        dataset.use(patched)
        in_one_process(patched)
        for trainer in TRAINERS:
            train(patched, trainer=trainer)
    return dataset


@pytest.fixture(scope="session")
def donors(phantom_3d, tmp_path_factory):
    dataset = phantom_3d.copy(tmp_path_factory.mktemp("donors"))
    with pytest.MonkeyPatch.context() as patched:
        dataset.use(patched)
        for method in (*DONORS, "CCT", "DAN", "MCF", "TAC", "LGSSL"):
            write_donor(dataset, method, patched)
    return dataset
