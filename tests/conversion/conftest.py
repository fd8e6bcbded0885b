"""Fixtures of the conversion's tests: a raw folder, and a conversion of five small cases."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from small_conversion import volume

from nnunet_ssl.conversion.cases import Case, Conversion
from nnunet_ssl.conversion.notes import Note
from nnunet_ssl.conversion.sources import read_volume


@pytest.fixture
def raw(tmp_path, monkeypatch) -> Path:
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    return tmp_path / "nnUNet_raw"


@pytest.fixture
def conversion(tmp_path) -> Conversion:
    """Five two-channel cases: two labeled, two unlabeled, one test."""
    source = tmp_path / "source"
    source.mkdir()
    rng = np.random.default_rng(0)
    cases = []
    for name, part in zip("abcde", ["labeled", "labeled", "unlabeled", "unlabeled", "test"], strict=True):
        paths = [source / f"{name}_{rest}" for rest in ("t1.nii.gz", "t2.nrrd", "seg.nii.gz")]
        for path in paths[:2]:
            sitk.WriteImage(volume(rng.integers(-1000, 1000, (6, 8, 10)).astype(np.int16)), str(path))
        sitk.WriteImage(volume(rng.integers(0, 3, (6, 8, 10)).astype(np.int16)), str(paths[2]))
        cases.append(Case(name, part, tuple(paths[:2]), None if part == "unlabeled" else paths[2]))
    return Conversion(
        converter="two-channel",
        channels=("T1", "T2"),
        labels={"background": 0, "one": 1, "two": 2},
        cases=cases,
        read_image=read_volume,
        read_label=read_volume,
        source={"path": str(source), "layout": "flat"},
        protocol={"name": "by hand"},
        notes=[Note("both kept", "they are alike", ("c", "d"))],
    )
