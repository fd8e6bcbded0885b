"""The converter of the Decathlon's tasks, on small volumes in the released layout, against nnU-Net's own converter."""

import gzip
import json
import struct
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from msd_source import SHAPE
from nnunetv2.dataset_conversion import convert_MSD_dataset

from nnunet_ssl.conversion.writing import write_raw_dataset
from nnunet_ssl.dataset_conversion.msd import msd_conversion
from nnunet_ssl.errors import InputError


def test_same_as_the_converter_of_nnunet(prostate, write, same, monkeypatch, tmp_path):
    folder = write(msd_conversion(prostate, 2))
    assert folder.name == "Dataset027_Prostate"
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "theirs"))
    monkeypatch.setattr(
        convert_MSD_dataset, "multiprocessing", SimpleNamespace(get_context=lambda _: SimpleNamespace(Pool=ThreadPool))
    )
    convert_MSD_dataset.convert_msd_dataset(str(prostate), 5, 1)
    theirs = tmp_path / "theirs" / "Dataset005_Prostate"
    files = sorted(path.relative_to(folder) for path in folder.rglob("*.nii.gz"))
    assert len(files) == 2 * (5 + 2) + 2
    for file in files:
        place = Path("imagesTr", file.name) if file.parent.name == "imagesUnlabeled" else file
        assert same(folder / file, sitk.ReadImage(str(theirs / place)))
    ours, stock = (json.loads((root / "dataset.json").read_text(encoding="utf-8")) for root in (folder, theirs))
    for key in ("channel_names", "labels", "file_ending"):
        assert ours[key] == stock[key]


def test_labels_of_unlabeled_cases_are_hidden(prostate, write, ids):
    conversion = msd_conversion(prostate, 2)
    folder = write(conversion)
    assert conversion.ids("labeled") == ["case_001", "case_004"]
    assert ids(folder / "labelsTr") == {"case_001", "case_004"}
    assert conversion.ids("unlabeled") == ["case_007", "case_012", "case_030"]
    assert conversion.ids("test") == ["case_002", "case_100"]
    assert not (folder / "labelsTs").exists()
    assert msd_conversion(prostate).ids("labeled") == ["case_001"]
    assert msd_conversion(prostate, "40%").ids("labeled") == ["case_001", "case_004"]


def test_one_channel_can_be_linked(spleen, write):
    folder = write(msd_conversion(spleen, 2), link=True)
    assert (folder / "labelsTr" / "case_001.nii.gz").samefile(spleen / "labelsTr" / "case_001.nii.gz")
    unlabeled = folder / "imagesUnlabeled" / "case_007_0000.nii.gz"
    assert unlabeled.samefile(spleen / "imagesTr" / "case_007.nii.gz")


def test_faults(prostate, spleen, tmp_path):
    with pytest.raises(InputError, match="does not exist: SOURCE is the folder of a Decathlon task"):
        msd_conversion(tmp_path)
    with pytest.raises(InputError, match="Unknown protocol 'dhc-5'. There are none"):
        msd_conversion(spleen, "dhc-5")
    image = prostate / "imagesTr" / "case_007.nii.gz"
    sitk.WriteImage(sitk.ReadImage(str(image))[..., :1], str(image))
    with pytest.raises(InputError, match=r"case_007: .*case_007\.nii\.gz.* 1 channels, not 2"):
        write_raw_dataset(msd_conversion(prostate, 2), 27, "P")
    image.write_bytes(image.read_bytes()[:-30])
    with pytest.raises(InputError, match=r"case_007: .*case_007\.nii\.gz cannot be read \(damaged or truncated\)"):
        write_raw_dataset(msd_conversion(prostate, 2), 27, "P")
    (spleen / "labelsTr" / "case_001.nii.gz").unlink()
    with pytest.raises(InputError, match=r"lacks the labels of case_001\."):
        msd_conversion(spleen, 2)
    (spleen / "imagesTr" / "case_012.nii.gz").unlink()
    with pytest.raises(InputError, match=r"lacks scans of the dataset\.json: case_012\."):
        msd_conversion(spleen, 2)


def test_command(spleen, command):
    result = command("msd", spleen, "--dataset-id", 27, "-np", 1)
    assert result.exit_code == 0, result.exception
    assert "Dataset027_Spleen: 1 labeled, 4 unlabeled, 2 test cases" in result.output
    assert "--protocol" not in command("msd", "--help").output


@pytest.mark.parametrize("name", ["spleen", "prostate"])
def test_nan_is_written_as_the_user_says(name, request, tmp_path, command):
    source = request.getfixturevalue(name)
    file = source / "imagesTr" / "case_007.nii.gz"
    stored = nib.load(file)
    voxels = stored.get_fdata(dtype=np.float32)
    voxels[:2, 1, 3] = np.nan
    nib.save(nib.Nifti1Image(voxels, stored.affine, stored.header), file)
    refused = command("msd", source, "--dataset-id", 27, "-np", 1)
    assert "holds NaN" in str(refused.exception)
    result = command("msd", source, "--dataset-id", 27, "-np", 1, "--fill-nan", -1024.5)
    assert result.exit_code == 0, result.exception
    assert (
        "Note: NaN in images replaced by -1024.5 (case_007): --fill-nan says so."
        in result.output.rstrip().splitlines()[-2]
    )
    folder = next((tmp_path / "nnUNet_raw").iterdir())
    record = json.loads((folder / "conversion.json").read_text(encoding="utf-8"))
    assert record["protocol"]["NaN in images"] == "written as -1024.5"
    note = {"what": "NaN in images replaced by -1024.5", "cases": ["case_007"], "why": "--fill-nan says so"}
    assert note in record["notes"]
    channels = [voxels] if voxels.ndim == 3 else list(np.moveaxis(voxels, -1, 0))
    for channel, wanted in enumerate(channels):
        written = nib.load(folder / "imagesUnlabeled" / f"case_007_{channel:04d}.nii.gz").get_fdata()
        assert np.array_equal(written, np.where(np.isnan(wanted), -1024.5, wanted))
        assert (written == -1024.5).sum() == 2
    assert "give the number" in str(command("msd", source, "--dataset-id", 28, "--fill-nan", "nan").exception)


def test_infinity_is_not_filled_and_a_label_neither(spleen):
    for name, value in (("imagesTr/case_007.nii.gz", np.inf), ("labelsTr/case_001.nii.gz", np.nan)):
        image = sitk.GetImageFromArray(np.where(np.indices(SHAPE).sum(0) == 9, value, 1).astype(np.float32))
        image.SetSpacing((0.7, 0.9, 3.0))
        sitk.WriteImage(image, str(spleen / name))
    with pytest.raises(InputError) as caught:
        write_raw_dataset(msd_conversion(spleen, 2, fill_nan=0), 27, "Holes")
    for name in ("imagesTr/case_007.nii.gz", "labelsTr/case_001.nii.gz"):
        assert f"{name} holds NaN or infinite values" in str(caught.value)


def as_nifti_2(image):
    return nib.Nifti2Image(np.asanyarray(image.dataobj), image.affine, dtype=image.get_data_dtype())


def as_skewed(image):
    skewed = nib.Nifti1Image(np.asanyarray(image.dataobj), None, dtype=image.get_data_dtype())
    affine = image.affine.copy()
    affine[0, 1] += 5e-3
    skewed.header.set_zooms(image.header.get_zooms())
    skewed.set_sform(affine, 1)
    return skewed


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("change", [as_nifti_2, as_skewed])
def test_what_only_nibabel_reads_is_written_as_what_every_reader_opens(spleen, write, link, change):
    """A link to it would be a dataset that nnU-Net's default reader cannot read."""
    files = [
        spleen / place for place in ("imagesTr/case_007.nii.gz", "imagesTr/case_001.nii.gz", "labelsTr/case_001.nii.gz")
    ]
    stored = [nib.Nifti1Image.from_bytes(gzip.decompress(file.read_bytes())) for file in files]
    for file, image in zip(files, stored, strict=True):
        nib.save(change(image), file)
        with pytest.raises(RuntimeError):
            sitk.ReadImage(str(file))
    folder = write(msd_conversion(spleen, 2), link=link)
    written = ("imagesUnlabeled/case_007_0000.nii.gz", "imagesTr/case_001_0000.nii.gz", "labelsTr/case_001.nii.gz")
    for path, image in zip(written, stored, strict=True):
        assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(folder / path))).T, image.get_fdata())
        assert np.allclose(nib.load(folder / path).affine, image.affine, atol=5e-3)
    notes = json.loads((folder / "conversion.json").read_text(encoding="utf-8"))["notes"]
    angles = [note["cases"] for note in notes if note["what"] == "axes given right angles"]
    assert angles == ([["case_001", "case_007"]] if change is as_skewed else [])


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (300, np.int16),
        (-1, np.int16),
        (2**32 + 1, np.uint64),
        (2**64 - 1, np.uint64),
        (0.5, np.float32),
        (257, np.int32),
    ],
)
def test_label_values_are_never_wrapped(spleen, value, dtype):
    file = spleen / "labelsTr" / "case_001.nii.gz"
    stored = nib.load(file)
    voxels = np.asanyarray(stored.dataobj).astype(dtype)
    voxels[voxels == 1] = value
    nib.save(nib.Nifti1Image(voxels, stored.affine, dtype=dtype), file)
    with pytest.raises(InputError, match=rf"has label values \[{value}\] besides \[0, 1, 2\]"):
        write_raw_dataset(msd_conversion(spleen, 2), 27, "Labels")


@pytest.mark.parametrize("factor", [2, 10])
def test_labels_with_a_slope_are_their_values(spleen, write, factor):
    file = spleen / "labelsTr" / "case_001.nii.gz"
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(file))).T
    content = bytearray(nib.Nifti1Image(labels * np.uint8(factor), nib.load(file).affine).to_bytes())
    struct.pack_into("<2f", content, 112, 1 / factor, 0)
    file.write_bytes(gzip.compress(content))
    folder = write(msd_conversion(spleen, 2))
    assert np.array_equal(nib.load(folder / "labelsTr" / "case_001.nii.gz").get_fdata(), labels)
