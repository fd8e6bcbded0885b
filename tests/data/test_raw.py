"""Finding datasets and cases in nnU-Net's folders."""

from pathlib import Path

import pytest

from nnunet_ssl.data.raw import find_cases, listed, preprocessed_folder, raw_folder
from nnunet_ssl.errors import InputError


@pytest.fixture(autouse=True)
def nnunet_folders(tmp_path, monkeypatch):
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    return tmp_path


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def test_folders_of_a_dataset(nnunet_folders):
    raw = nnunet_folders / "nnUNet_raw" / "Dataset018_LA"
    raw.mkdir()
    assert raw_folder(18) == raw
    with pytest.raises(InputError, match=r"not preprocessed.*nnUNetv2_plan_and_preprocess -d 18"):
        preprocessed_folder(18)
    preprocessed = nnunet_folders / "nnUNet_preprocessed" / "Dataset018_LA"
    preprocessed.mkdir()
    assert preprocessed_folder(18) == preprocessed


def test_training_machine_needs_no_raw_data(nnunet_folders, monkeypatch):
    monkeypatch.delenv("nnUNet_raw")
    preprocessed = nnunet_folders / "nnUNet_preprocessed" / "Dataset018_LA"
    preprocessed.mkdir()
    assert preprocessed_folder(18) == preprocessed
    with pytest.raises(InputError, match="nnUNet_raw is not set"):
        raw_folder(18)


def test_unknown_and_ambiguous_ids(nnunet_folders):
    with pytest.raises(InputError, match="No dataset has the id 18"):
        raw_folder(18)
    (nnunet_folders / "nnUNet_raw" / ".Dataset018_LA.partial-1").mkdir()
    with pytest.raises(InputError, match="No dataset has the id 18"):
        raw_folder(18)
    (nnunet_folders / "nnUNet_raw" / "Dataset018_LA").mkdir()
    (nnunet_folders / "nnUNet_preprocessed" / "Dataset018_Heart").mkdir()
    for folder in (raw_folder, preprocessed_folder):
        with pytest.raises(InputError, match="Dataset018_Heart, Dataset018_LA"):
            folder(18)


def test_raw_data_of_a_dataset_only_preprocessed_here(nnunet_folders):
    (nnunet_folders / "nnUNet_preprocessed" / "Dataset018_LA").mkdir()
    with pytest.raises(InputError, match=r"Dataset018_LA\) has no raw data"):
        raw_folder(18)


def test_cases_and_their_channels(tmp_path):
    names = ["b_0001.nii.gz", "b_0000.nii.gz", "a_1_0000.nii.gz", "a_1_0001.nii.gz", "._b_0000.nii.gz", "note.txt"]
    folder = touch(tmp_path / "images", *names)
    (folder / "old_0000.nii.gz").mkdir()
    assert find_cases(folder, ".nii.gz", 2) == {
        "a_1": [folder / "a_1_0000.nii.gz", folder / "a_1_0001.nii.gz"],
        "b": [folder / "b_0000.nii.gz", folder / "b_0001.nii.gz"],
    }
    assert list(find_cases(folder, ".nii.gz", 2)) == ["a_1", "b"]
    assert find_cases(touch(tmp_path / "empty"), ".nii.gz", 1) == {}


def test_sidecars_of_other_formats_are_no_fault(tmp_path):
    tiff = touch(tmp_path / "tiff", "a_0000.tif", "a.json")
    assert list(find_cases(tiff, ".tif", 1)) == ["a"]
    mhd = touch(tmp_path / "mhd", "a_0000.mhd", "a_0000.raw")
    assert list(find_cases(mhd, ".mhd", 1)) == ["a"]


def test_every_file_that_does_not_fit_is_named(tmp_path):
    names = ["a_0000.nii.gz", "b_0000.nii.gz", "b_0001.nii.gz", "b_0002.nii.gz", "c.nii.gz", "d_0000.nii"]
    folder = touch(tmp_path / "images", *names)
    with pytest.raises(InputError) as error:
        find_cases(folder, ".nii.gz", 2)
    for fault in (
        "a_0001.nii.gz is missing",
        "b_0002.nii.gz is beyond the 2 channel(s)",
        "c.nii.gz has no channel number",
        "d_0000.nii does not end in .nii.gz",
    ):
        assert fault in str(error.value)
    assert "b_0000" not in str(error.value)
    with pytest.raises(InputError, match="does not exist"):
        find_cases(tmp_path / "none", ".nii.gz", 1)


def test_long_lists_are_cut():
    assert listed(["a", "b"], limit=2) == "a; b"
    assert listed(["a", "b", "c", "d"], limit=2) == "a; b; and 2 more"
