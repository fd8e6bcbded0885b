"""The one reader: what nnU-Net's readers read is read, what they hide is refused."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

from nnunet_ssl.data.reading import read_file, reader_of
from nnunet_ssl.errors import InputError

READERS = [SimpleITKIO, NibabelIO, NibabelIOWithReorient]
AFFINE = np.array([[0, -1.5, 0, 10], [1.4, 0, 0, -20], [0, 0, 3.0, 5], [0, 0, 0, 1]])


def voxels(dtype=np.float32):
    return np.random.default_rng(0).integers(1, 100, (9, 8, 7)).astype(dtype)


def skewed(by=1e-3):
    """Told by the sform alone, as some scanners' exports are."""
    image, affine = nib.Nifti1Image(voxels(), None), AFFINE.copy()
    affine[0, 0] = by * 1.5
    image.header.set_zooms((1.4, 1.5, 3.0))
    image.set_sform(affine, 1)
    image.set_qform(None, 0)
    return image


def refusal(reader, file, **options):
    with pytest.raises(InputError) as caught:
        read_file(reader, file, "this one", **options)
    assert str(caught.value).startswith("this one: ")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("segmentation", [False, True])
@pytest.mark.parametrize("reader", READERS)
def test_voxels_and_properties_are_those_of_the_reader(tmp_path, reader, segmentation):
    file = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(voxels(np.int16), AFFINE), file)
    array, properties = read_file(reader, file, "a", segmentation)
    wanted, wanted_properties = reader().read_images([str(file)])
    assert array.tobytes() == wanted.tobytes()
    assert array.dtype == np.float32
    assert repr(properties) == repr(wanted_properties)


@pytest.mark.parametrize("image", [skewed(), skewed(0.2), nib.Nifti2Image(voxels(), AFFINE)])
def test_what_only_nibabel_reads_is_no_damage(tmp_path, image):
    file = tmp_path / "a.nii.gz"
    nib.save(image, file)
    for reader in READERS[1:]:
        array, properties = read_file(reader, file, "a")
        wanted, wanted_properties = reader().read_images([str(file)])
        assert np.array_equal(array, wanted)
        assert repr(properties) == repr(wanted_properties)
    message = refusal(SimpleITKIO, file)
    assert "orthonormal" in message or "Unable to determine ImageIO reader" in message
    assert "damaged" not in message
    assert reader_of({"file_ending": ".nii.gz"}, [file]) is NibabelIO  # as nnU-Net chooses


def test_a_header_without_places(tmp_path):
    content = bytearray(nib.Nifti1Image(voxels(), AFFINE).to_bytes())
    for rows in (np.nan, 0):
        content[280:328] = np.full(12, rows, "<f4").tobytes()
        (tmp_path / "a.nii").write_bytes(content)
        assert "cannot be read (" in refusal(NibabelIOWithReorient, tmp_path / "a.nii")


@pytest.mark.parametrize("reader", READERS)
def test_the_spacing_is_pixdim_whatever_the_transforms_say(tmp_path, reader):
    image = nib.Nifti1Image(voxels(), np.diag([1.5, 1.5, 3, 1]))
    image.set_sform(np.diag([1.5, 1.5, 5, 1]), 1)
    nib.save(image, tmp_path / "a.nii.gz")
    assert read_file(reader, tmp_path / "a.nii.gz", "a")[1]["spacing"] == [3, 1.5, 1.5]


def test_plain_nifti_that_ends_in_gz(tmp_path):
    file = tmp_path / "a.nii.gz"
    file.write_bytes(nib.Nifti1Image(voxels(), AFFINE).to_bytes())
    assert np.array_equal(read_file(SimpleITKIO, file, "a")[0][0], voxels().T)
    assert "is not a gzip file" in refusal(NibabelIO, file)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("segmentation", [False, True])
@pytest.mark.parametrize(
    ("ending", "reader"),
    [
        *((".nii.gz", reader) for reader in READERS),
        (".nii", NibabelIO),
        (".nrrd", SimpleITKIO),
        (".mha", SimpleITKIO),
        (".tif", Tiff3DIO),
        (".tif", NaturalImage2DIO),
    ],
)
def test_nan_is_seen_in_every_format(tmp_path, ending, reader, segmentation, value):
    file, array = tmp_path / f"a_0000{ending}", voxels()
    for hole in (False, True):
        if hole:
            array[1, 2, 3] = value
        if reader is NaturalImage2DIO:
            tifffile.imwrite(file, array[1])
        elif reader is Tiff3DIO:
            tifffile.imwrite(file, array)
        else:
            sitk.WriteImage(sitk.GetImageFromArray(array), str(file))
        if not hole:
            read_file(reader, file, "a", segmentation)
    assert "holds NaN or infinite values" in refusal(reader, file, segmentation=segmentation)


def test_values_beyond_single_precision(tmp_path):
    nib.save(nib.Nifti1Image(voxels(np.float64) * 1e300, AFFINE), tmp_path / "a.nii.gz")
    with np.errstate(over="ignore"):
        assert "infinite" in refusal(NibabelIO, tmp_path / "a.nii.gz")


def test_voxels_of_several_numbers(tmp_path):
    vectors = sitk.Compose([sitk.GetImageFromArray(voxels())] * 3)
    for ending in (".nii.gz", ".nrrd", ".mha"):
        sitk.WriteImage(vectors, str(tmp_path / f"a{ending}"))
        assert "holds voxels of several numbers" in refusal(SimpleITKIO, tmp_path / f"a{ending}")
    pair = sitk.RealAndImaginaryToComplex(*[sitk.GetImageFromArray(voxels())] * 2)
    for ending in (".nii.gz", ".nrrd"):
        sitk.WriteImage(pair, str(tmp_path / f"a{ending}"))
        assert "holds complex numbers" in refusal(SimpleITKIO, tmp_path / f"a{ending}")
    sitk.WriteImage(pair, str(tmp_path / "a.mha"))
    assert "holds voxels of several numbers" in refusal(SimpleITKIO, tmp_path / "a.mha")


def test_spacing_beside_a_tiff(tmp_path):
    tifffile.imwrite(tmp_path / "a_0000.tif", voxels())
    for spacing, words in (("[0, 1, 1]", "claims voxels of 0 x 1 x 1 mm"), ('["x", 1, 1]', "cannot be read (")):
        (tmp_path / "a.json").write_text(f'{{"spacing": {spacing}}}', encoding="utf-8")
        assert words in refusal(Tiff3DIO, tmp_path / "a_0000.tif")


def test_files_that_are_none(tmp_path):
    (tmp_path / "link.nii.gz").symlink_to("nowhere")
    assert "is no file" in refusal(SimpleITKIO, tmp_path / "link.nii.gz")
    assert "is no file" in refusal(SimpleITKIO, tmp_path)
    (tmp_path / "a.nii.gz").write_bytes(b"<html>" * 200)
    message = refusal(SimpleITKIO, tmp_path / "a.nii.gz")
    assert "cannot be read (" in message
    assert "damaged" not in message


def test_the_reader_that_nnunet_chooses(tmp_path):
    flat, volume, damaged = tmp_path / "flat.tif", tmp_path / "volume.tif", tmp_path / "damaged.tif"
    tifffile.imwrite(flat, voxels()[0])
    tifffile.imwrite(volume, voxels())
    damaged.write_bytes(volume.read_bytes()[:50])
    skewed_file, gigantic = tmp_path / "skewed.nii.gz", tmp_path / "gigantic.nii"
    nib.save(skewed(), skewed_file)
    content = bytearray(nib.Nifti1Image(voxels(), AFFINE).to_bytes())
    content[42:48] = np.array([32767] * 3, "<i2").tobytes()
    gigantic.write_bytes(content)
    assert reader_of({"file_ending": ".nii.gz"}, [gigantic, skewed_file]) is NibabelIO  # the first is not opened
    content = {"file_ending": ".tif"}
    assert reader_of(content, [flat, volume]) is NaturalImage2DIO
    assert reader_of(content, [volume, flat]) is Tiff3DIO
    assert reader_of(content, [damaged, volume]) is Tiff3DIO
    assert reader_of(content | {"overwrite_image_reader_writer": "Tiff3DIO"}, [flat]) is Tiff3DIO
    assert reader_of({"file_ending": ".nii.gz", "overwrite_image_reader_writer": "NoSuchIO"}, []) is SimpleITKIO
    with pytest.raises(InputError, match=r"no reader for files that end in \.jpg"):
        reader_of({"file_ending": ".jpg"}, [])
