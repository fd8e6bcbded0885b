"""Finding and reading the files of a downloaded data set."""

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ssl.data.sources import NIFTI, find_files, read_volume
from nnunet_ssl.errors import InputError


def test_find_files(tmp_path):
    for name in (
        "b/img2.nii",
        "a/img1.nii.gz",
        "a/._img1.nii.gz",
        "__MACOSX/a/img3.nii.gz",
        ".cache/img4.nii",
        "img5.txt",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    pattern = rf"img(?P<id>\d){NIFTI}"
    assert find_files(tmp_path, pattern) == {"1": tmp_path / "a/img1.nii.gz", "2": tmp_path / "b/img2.nii"}
    (tmp_path / "b/img1.nii").touch()
    with pytest.raises(InputError, match=r"holds scans twice: 1 \(.*a/img1\.nii\.gz, .*b/img1\.nii\)"):
        find_files(tmp_path, pattern)
    with pytest.raises(InputError, match="is no folder"):
        find_files(tmp_path / "none", pattern)


def test_read_volume_refuses_what_is_no_volume(tmp_path):
    slice_ = tmp_path / "slice.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((4, 5), np.int16)), str(slice_))
    with pytest.raises(InputError, match=r"slice\.nii\.gz is no scalar 3D volume"):
        read_volume(slice_)
    with pytest.raises(InputError, match="is missing"):
        read_volume(tmp_path / "none.nii.gz")
    text = tmp_path / "text.nrrd"
    text.write_text("no image", encoding="utf-8")
    with pytest.raises(InputError, match=r"text\.nrrd cannot be read"):
        read_volume(text)
