"""Finding and reading the files of a downloaded data set."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ssl.conversion.sources import NIFTI, REPAIR, find_files, read_volume
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


AFFINE = np.array([[0, -1.5, 0, 10], [1.4, 0, 0, -20], [0, 0, 3.0, 5], [0, 0, 0, 1]])
VOXELS = np.random.default_rng(0).integers(-5, 100, (9, 8, 7)).astype(np.int16)


def test_nifti_2_is_read_as_nifti_1_is(tmp_path):
    for kind, ending in ((nib.Nifti1Image, ".nii.gz"), (nib.Nifti2Image, ".nii.gz"), (nib.Nifti2Image, ".nii")):
        image = kind(VOXELS, AFFINE)
        image.header.set_slope_inter(2, -3)
        nib.save(image, tmp_path / f"a{ending}")
        read = read_volume(tmp_path / f"a{ending}")
        assert np.array_equal(sitk.GetArrayFromImage(read), nib.load(tmp_path / f"a{ending}").get_fdata().T)
        assert np.allclose(read.GetSpacing(), (1.4, 1.5, 3.0))
        assert np.allclose(read.GetOrigin(), (-10, 20, 5))
        assert np.allclose(read.GetDirection(), (0, 1, 0, -1, 0, 0, 0, 0, 1))
    nib.save(nib.Nifti2Image(VOXELS[..., None], AFFINE), tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match="is no scalar 3D volume"):
        read_volume(tmp_path / "a.nii.gz")


def save_skewed(file, by):
    """Axes off orthogonal, told by the sform alone: SimpleITK refuses the file."""
    skewed = AFFINE.copy()
    skewed[0, 0] = 1.5 * by
    image = nib.Nifti1Image(VOXELS, None)
    image.header.set_zooms((1.4, 1.5, 3.0))
    image.set_sform(skewed, 1)
    nib.save(image, file)
    return np.diag([-1, -1, 1, 1]) @ skewed


def test_axes_that_are_not_quite_orthogonal_are_given_right_angles(tmp_path):
    affine = save_skewed(tmp_path / "a.nii.gz", 5e-3)
    with pytest.raises(RuntimeError, match="orthonormal"):
        sitk.ReadImage(str(tmp_path / "a.nii.gz"))
    image = read_volume(tmp_path / "a.nii.gz")
    assert image.GetMetaData(REPAIR).startswith("axes given right angles: ")
    assert np.array_equal(sitk.GetArrayFromImage(image), VOXELS.T)
    assert np.allclose(image.GetSpacing(), (1.4, 1.5, 3.0))
    direction = np.reshape(image.GetDirection(), (3, 3))
    assert np.allclose(direction.T @ direction, np.eye(3), atol=1e-9)
    # an error of 5e-3 is shared by two axes of at most 8 steps
    ends = [(i, j, k) for i in (0, 8) for j in (0, 7) for k in (0, 6)]
    moved = [image.TransformIndexToPhysicalPoint(end) - (affine @ (*end, 1))[:3] for end in ends]
    assert 0.01 < np.abs(moved).max() < 0.05


def test_axes_that_are_far_from_orthogonal_are_refused_for_what_they_are(tmp_path):
    save_skewed(tmp_path / "a.nii.gz", 0.2)
    with pytest.raises(InputError, match=r"a\.nii\.gz: its axes are not orthogonal, .* move a corner by 0\.\d+ voxels"):
        read_volume(tmp_path / "a.nii.gz")


def test_a_header_that_says_no_place(tmp_path):
    image = nib.Nifti1Image(VOXELS, None)
    image.set_sform(np.diag([1, 0, 1, 1]), 1)
    nib.save(image, tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match="does not say where its voxels stand"):
        read_volume(tmp_path / "a.nii.gz")
