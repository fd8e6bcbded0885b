"""What a file is refused for before a library that hides it has read it, and what it is not refused for."""

import gzip
import math
import random
import struct

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ssl.data.headers import file_fault, nan_voxels

SHAPE = (9, 8, 7)  # (x, y, z)
DAMAGED = "damaged or truncated"
UNCLEAR = "which readers understand differently"


def voxels(dtype=np.int16):
    return np.random.default_rng(0).integers(1, 100, SHAPE).astype(dtype)


def holed(value=math.nan, dtype=np.float32):
    array = voxels(dtype)
    array[1, 2, 3] = value
    return array


def stored(array, kind=nib.Nifti1Image, order="<", **fields):
    """The bytes of a NIfTI file, with header fields as they are given."""
    header = kind.header_class(endianness=order)
    header.set_data_dtype(array.dtype.newbyteorder(order))
    content = kind(array, np.diag([1.5, 1.5, 3.0, 1.0]), header).to_bytes()
    own = np.frombuffer(content, header.template_dtype.newbyteorder(order), 1).copy()
    for name, value in fields.items():
        field = own[0][name]
        own[0][name] = value if np.ndim(field) == 0 else [*value, *field[len(value) :]]
    return own.tobytes() + content[own.itemsize :]


def fault_of(tmp_path, content, ending=".nii.gz", compress=True):
    file = tmp_path / f"a{ending}"
    file.write_bytes(gzip.compress(content) if compress and ending.lower().endswith(".gz") else content)
    return file_fault(file)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("shape", [(9, 11), (7, 9, 11), (2, 7, 9, 11)])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_truncated_nifti_is_recognized(tmp_path, ending, shape, dtype):
    path = tmp_path / f"a{ending}"
    array = np.random.default_rng(0).integers(0, 1000, shape).astype(dtype)
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=False), str(path))
    assert file_fault(path) == ""
    content = path.read_bytes()
    for length in (len(content) - 1, len(content) // 2, 100, 0):
        path.write_bytes(content[:length])
        # The last byte of a .gz belongs to the length field behind the voxels; its loss is noticed as well.
        assert DAMAGED in file_fault(path)


def test_a_changed_bit_is_never_taken_for_voxels(tmp_path):
    """gzip keeps a checksum. SimpleITK reads all of these files without a word as other voxels, nibabel 185 of them."""
    file, draw = tmp_path / "a.nii.gz", random.Random(0)
    array = np.random.default_rng(0).integers(0, 1000, (60, 100, 100)).astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(file), useCompression=True)
    whole = file.read_bytes()
    assert file_fault(file) == ""
    for _ in range(200):
        content = bytearray(whole)
        content[draw.randrange(20, len(content))] ^= 1 << draw.randrange(8)
        file.write_bytes(content)
        assert DAMAGED in file_fault(file)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".NII.GZ"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_and_infinity_are_seen_in_every_nifti(tmp_path, kind, order, ending, dtype):
    assert fault_of(tmp_path, stored(voxels(dtype), kind, order), ending) == ""
    for value in (math.nan, math.inf, -math.inf):
        content = stored(holed(value, dtype), kind, order, scl_slope=2, scl_inter=-5)
        assert "NaN or infinite" in fault_of(tmp_path, content, ending)
        file = tmp_path / f"a{ending}"
        assert ("infinite" in file_fault(file, nan_is_fine=True)) == (not math.isnan(value))
        assert np.argwhere(nan_voxels(file)).tolist() == ([[3, 2, 1]] if math.isnan(value) else [])
    content = stored(voxels(dtype), kind, order)
    assert DAMAGED in fault_of(tmp_path, content[:-1], ending)
    assert DAMAGED in fault_of(tmp_path, content[: len(content) // 2], ending)


def test_integers_have_no_nan(tmp_path):
    assert fault_of(tmp_path, stored(voxels(np.int16))) == ""
    assert nan_voxels(tmp_path / "a.nii.gz") is None


@pytest.mark.parametrize(
    ("slope", "intercept", "is_clear"),
    [
        (1, 0, True),
        (2, -1024, True),
        (-1, 0, True),
        (1e-6, 0, True),
        (0, 0, True),
        (math.nan, math.nan, True),  # how nibabel says that there is none
        (0, 7, False),
        (math.nan, 7, False),
        (2, math.nan, False),
        (1, math.inf, False),
        (math.inf, 0, False),
        (1e-17, 0, False),
    ],
)
def test_slope_and_intercept(tmp_path, slope, intercept, is_clear):
    """Refused is where SimpleITK and nibabel give other values, or read what makes no sense as if it were not there."""
    content = stored(voxels(), scl_slope=slope, scl_inter=intercept)
    assert (UNCLEAR in fault_of(tmp_path, content)) == (not is_clear)
    file, values = str(tmp_path / "a.nii.gz"), []
    for read in (lambda: sitk.GetArrayFromImage(sitk.ReadImage(file)).T, lambda: nib.load(file).get_fdata()):
        try:
            values.append(read())
        except nib.spatialimages.HeaderDataError:
            values.append(None)
    if is_clear:
        used = 1 if slope == 0 or math.isnan(slope) else slope
        expected = voxels() * float(np.float32(used)) + (0 if math.isnan(intercept) else intercept)
        assert all(np.allclose(each, expected, rtol=1e-6, atol=0) for each in values)


@pytest.mark.parametrize(
    ("words", "array", "fields"),
    [
        ("complex numbers", voxels(np.complex64), {}),
        ("complex numbers", voxels(np.complex128), {}),
        ("colors", np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")]), {}),
        ("claims voxels of 1.5 x 0 x 3 mm", voxels(), {"pixdim": [1, 1.5, 0]}),
        ("claims voxels of nan x 1.5 x 3 mm", voxels(), {"pixdim": [1, math.nan]}),
        ("claims voxels of 1e+30 x 1.5 x 3 mm", voxels(), {"pixdim": [1, 1e30]}),
        ("claims an axis of 0 voxels", voxels(), {"dim": [3, 0]}),
        ("claims an axis of -9 voxels", voxels(), {"dim": [3, -9]}),
        ("claims 3.52e+13 voxels in its header", voxels(), {"dim": [3, 32767, 32767, 32767]}),
        (DAMAGED, voxels(), {"dim": [3, 9, 8, 8]}),
        ("holds 7 times the 9 x 8 voxels", voxels(), {"dim": [2]}),
        ("holds 1.75 times the 9 x 8 x 4 voxels", voxels(), {"dim": [3, 9, 8, 4]}),
        ("holds 2 times the 9 x 8 x 7 voxels", np.stack([voxels()] * 2, -1), {"dim": [3]}),
        ("begin at byte 0", voxels(), {"vox_offset": 0}),
        ("begin at byte 348", voxels(), {"vox_offset": 348}),
        ("begin at byte nan", voxels(), {"vox_offset": math.nan}),
        ("begin at byte inf", voxels(), {"vox_offset": math.inf}),
    ],
)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_headers_that_cannot_be_true(tmp_path, words, array, fields, ending):
    assert words in fault_of(tmp_path, stored(array, **fields), ending)


@pytest.mark.parametrize(
    "fields",
    [
        {"pixdim": [1, -1.5]},  # both libraries take the amount
        {"dim": [4, 9, 8, 7, 0]},  # SimpleITK: a fourth axis of one
        {"bitpix": 8},  # the type counts
        {"sizeof_hdr": 123},
        {"magic": b"ni1"},
        {"qform_code": 0, "sform_code": 0},
    ],
)
def test_oddities_that_readers_agree_on(tmp_path, fields):
    assert fault_of(tmp_path, stored(voxels(), **fields)) == ""
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.nii.gz"))).squeeze(), voxels().T)


def test_what_cannot_be_told_is_no_damage(tmp_path):
    content = stored(voxels())
    assert fault_of(tmp_path, content, compress=False) == ""  # plain NIfTI that ends in .gz
    assert DAMAGED in fault_of(tmp_path, content[:-1], compress=False)
    (tmp_path / "a.nii").write_bytes(gzip.compress(content))
    assert file_fault(tmp_path / "a.nii") == ""
    assert fault_of(tmp_path, content + b"\0" * 100) == ""  # padding
    several = gzip.compress(content[:500]) + gzip.compress(content[500:]) + gzip.compress(b"")
    (tmp_path / "a.nii.gz").write_bytes(several)
    assert file_fault(tmp_path / "a.nii.gz") == ""
    for unknown in (b"<html>" * 200, gzip.compress(gzip.compress(content) * 2)):
        (tmp_path / "a.nii.gz").write_bytes(unknown)
        assert file_fault(tmp_path / "a.nii.gz") == ""  # its reader will say so
    unknown_type = struct.pack("<h", 31000)
    assert fault_of(tmp_path, content[:70] + unknown_type + content[72:]) == ""

    skewed = np.diag([1.5, 1.5, 3.0, 1.0])
    skewed[0, 1] = 1e-3
    image = nib.Nifti1Image(voxels(), None)
    image.header.set_zooms((1.5, 1.5, 3.0))
    image.set_sform(skewed, 1)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * 1000))
    assert fault_of(tmp_path, image.to_bytes()) == ""
    with pytest.raises(RuntimeError, match="orthonormal"):
        sitk.ReadImage(str(tmp_path / "a.nii.gz"))


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_other_formats(tmp_path, ending):
    file = tmp_path / f"a{ending}"
    image = sitk.GetImageFromArray(voxels().T)
    sitk.WriteImage(image, str(file))
    assert file_fault(file) == ""
    file.write_text("no image", encoding="utf-8")
    assert file_fault(file) == ""
    image.SetSpacing((1, 1e5, 1))
    sitk.WriteImage(image, str(file))
    assert "claims voxels of 1 x 100000 x 1 mm" in file_fault(file)
    if ending == ".nrrd":  # .mha keeps complex numbers as vectors
        sitk.WriteImage(sitk.RealAndImaginaryToComplex(*[sitk.Cast(image, sitk.sitkFloat32)] * 2), str(file))
        assert "complex numbers" in file_fault(file)


@pytest.mark.parametrize("spoil", [lambda whole: whole[:-5], lambda whole: whole[: len(whole) // 2], "a byte"])
def test_a_damaged_compressed_metaimage_is_recognized(tmp_path, spoil):
    file = tmp_path / "a.mha"
    sitk.WriteImage(sitk.GetImageFromArray(voxels()), str(file), True)
    assert file_fault(file) == ""
    whole = file.read_bytes()
    middle = len(whole) * 2 // 3
    changed = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    file.write_bytes(changed if spoil == "a byte" else spoil(whole))
    assert DAMAGED in file_fault(file)
    sitk.WriteImage(sitk.GetImageFromArray(voxels()), str(file), False)
    assert file_fault(file) == ""
