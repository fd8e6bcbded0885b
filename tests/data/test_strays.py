"""What a folder of raw images holds beside the files of its cases."""

import pytest

from nnunet_ssl.data.strays import list_images
from nnunet_ssl.files import is_clutter

DICOM = b"\0" * 128 + b"DICM" + b"\0" * 20


def touch(folder, *names, content=b""):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def told(folder, ending=".nii.gz") -> list[str]:
    return [str(stray) for stray in list_images(folder, ending)[1]]


def test_files_by_case_and_channel(tmp_path):
    touch(tmp_path, "b_0001.nii.gz", "b_0000.nii.gz", "a_1_0000.nii.gz")
    found, strays = list_images(tmp_path, ".nii.gz")
    assert found == {
        "a_1": {0: tmp_path / "a_1_0000.nii.gz"},
        "b": {0: tmp_path / "b_0000.nii.gz", 1: tmp_path / "b_0001.nii.gz"},
    }
    assert strays == []
    assert list_images(tmp_path / "none", ".nii.gz") == ({}, [])


def test_folders_with_images_are_one_line_with_their_counts(tmp_path):
    touch(tmp_path, "a_0000.nii.gz", "siteA/x_0000.nii.gz", "siteA/y_0000.nii", "siteB/deep/er/z.NRRD")
    touch(tmp_path, "siteB/._z.nrrd", "notes/read.txt", "previews/x.png", ".hidden/x.nii.gz", "__MACOSX/x.nii.gz")
    (line,) = told(tmp_path)
    assert line.startswith("siteA (2 images); siteB (1 image): images in folders are not read; ")


def test_a_folder_named_like_an_image_is_a_folder(tmp_path):
    touch(tmp_path, "a_0000.nii.gz/a_0000.nii.gz")
    found, (stray,) = list_images(tmp_path, ".nii.gz")
    assert found == {}
    assert stray.names == ["a_0000.nii.gz (1 image)"]


def test_dicom_is_known_by_name_or_by_its_mark(tmp_path):
    touch(tmp_path, "p1/1.dcm", "p1/2.dcm", "p1/DICOMDIR.txt")
    touch(tmp_path, "p2/series/IM000001", "p2/series/1.2.840.10008", content=DICOM)
    touch(tmp_path, "p3/IM000001", content=b"no mark")
    assert told(tmp_path) == [
        "p1 (2 files); p2 (2 files): a DICOM series; convert it to CASE_0000.nii.gz beside the other images"
    ]
    loose = touch(tmp_path / "loose", *(f"IM_{i:04d}.dcm" for i in range(12)))
    (line,) = told(loose)
    assert line.startswith("IM_0000.dcm; ")
    assert line.endswith("; and 2 more: a DICOM series (12 files); convert it to CASE_0000.nii.gz")


def test_pictures_in_folders_count_where_images_are_pictures(tmp_path):
    touch(tmp_path, "more/x_0000.png")
    assert told(tmp_path) == []
    assert len(told(tmp_path, ".png")) == 1


def test_many_files_of_another_kind_are_one_line(tmp_path):
    touch(tmp_path, *(f"a{i:02d}.mha" for i in range(30)), "x.nii.gz", "y.nii.gz")
    unnumbered, other = told(tmp_path)
    assert unnumbered == "x.nii.gz; y.nii.gz: no channel number; rename it to x_0000.nii.gz"
    assert other.endswith("; and 20 more: the labeled images end in .nii.gz; convert it")


@pytest.mark.parametrize("name", ["._unl05_0000.nii.gz", ".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX"])
def test_clutter_is_passed_over(tmp_path, name):
    assert is_clutter(name)
    assert list_images(touch(tmp_path, name), ".nii.gz") == ({}, [])
    assert list_images(touch(tmp_path, f"folder/{name}"), ".db") == ({}, [])
