"""The converter of the ACDC data set, on small volumes in both layouts and on real volumes where present."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
from acdc_source import FIRST, LISTS, es_frame, frame

from nnunet_ssl.conversion.writing import write_raw_dataset
from nnunet_ssl.dataset_conversion.acdc import acdc_conversion, read_h5_image, read_h5_label
from nnunet_ssl.errors import InputError


def frames(patients: list[str], es=es_frame) -> set[str]:
    return {f"{patient}_frame{number:02d}" for patient in patients for number in (1, es(patient))}


def test_original(acdc, write, ids, said):
    conversion = acdc_conversion(acdc, 3)
    folder = write(conversion)
    assert folder.name == "Dataset027_ACDC"
    assert ids(folder / "imagesTr") == ids(folder / "labelsTr") == frames(FIRST)
    assert ids(folder / "imagesTs") == ids(folder / "labelsTs") == frames(LISTS["test"])
    assert ids(folder / "imagesUnlabeled") == frames(LISTS["train"][3:])
    assert len(list((folder / "imagesUnlabeled").iterdir())) == 67 * 2
    for file, name in {"imagesUnlabeled/{}_0000": "patient021", "labelsTs/{}": LISTS["test"][4]}.items():
        name = f"{name}_frame{es_frame(name):02d}"
        image = sitk.ReadImage(str(folder / f"{file.format(name)}.nii.gz"))
        expected = frame(name)[int("labels" in file)]
        assert (sitk.GetArrayFromImage(image) == expected).all()
        assert image.GetSpacing() == (1.5625, 1.5625, 10.0)
        assert image.GetOrigin() == (-50.5, 20.25, 3.0)
    record = json.loads((folder / "conversion.json").read_text(encoding="utf-8"))["protocol"]
    assert record["name"] == "ACDC, 70 training, 10 validation and 20 test patients (SSL4MIS)"
    assert record["validation"] == LISTS["validation"]
    assert "in the source but not used (patient101): not in the published lists." in said(conversion)


def test_h5(acdc_h5, write, ids):
    conversion = acdc_conversion(acdc_h5, "ssl4mis-3")
    folder = write(conversion)
    assert ids(folder / "labelsTr") == frames(FIRST, lambda patient: 2)
    for part, patient in {"imagesTr": FIRST[0], "imagesUnlabeled": "patient021"}.items():
        image = sitk.ReadImage(str(folder / part / f"{patient}_frame02_0000.nii.gz"))
        voxels = sitk.GetArrayFromImage(image)
        assert voxels.dtype == np.float32
        assert (voxels == frame(f"{patient}_frame02")[0].astype(np.float32) / 900).all()
        assert image.GetSpacing() == (1.5, 1.5, 10)
    assert conversion.protocol["spacing (z, y, x)"] == [10.0, 1.5, 1.5]
    notes = json.loads((folder / "conversion.json").read_text(encoding="utf-8"))["notes"]
    assert [(note["what"], note["cases"]) for note in notes] == [
        ("not used", LISTS["validation"]),
        ("spacing assumed, 10 x 1.5 x 1.5 mm (z, y, x)", "all"),
        ("put together from slices", [f"{FIRST[0]}_frame01", f"{FIRST[0]}_frame02"]),
    ]
    assert conversion.protocol["protocol"] == "ssl4mis-3"


def test_patients_are_never_divided(acdc_h5):
    for labeled, number in {None: 7, "10%": 7, "5%": 3, "ssl4mis-14": 14, 70: 70}.items():
        conversion = acdc_conversion(acdc_h5, labeled)
        parts = [{name[:10] for name in conversion.ids(part)} for part in ("labeled", "unlabeled", "test")]
        assert [len(part) for part in parts] == [number, 70 - number, 20]
        assert len(set.union(*parts)) == 90
        assert not set.union(*parts) & set(LISTS["validation"])
        assert len(conversion.cases) == 180


def test_spacing_of_the_user(acdc_h5, acdc):
    image = acdc_conversion(acdc_h5, 3, (5.0, 1.25, 1.75)).read_image(acdc_h5 / "data" / "patient038_frame01.h5")
    assert image.GetSpacing() == (1.75, 1.25, 5.0)
    with pytest.raises(InputError, match="three positive numbers"):
        acdc_conversion(acdc_h5, 3, (5.0, 0.0, 1.75))
    with pytest.raises(InputError, match="--spacing is for the h5 files"):
        acdc_conversion(acdc, 3, (5.0, 1.25, 1.75))


def test_uncompressed_original(acdc, save):
    folder = acdc / "training" / "patient099"
    for path in list(folder.glob("*_frame*.nii.gz")):
        image = sitk.ReadImage(str(path))
        sitk.WriteImage(image, str(path).removesuffix(".gz"))
        path.unlink()
    conversion = acdc_conversion(acdc / "training", 3)
    assert conversion.cases[0].images[0].name == "patient099_frame01.nii"
    assert conversion.cases[0].label.name == "patient099_frame01_gt.nii"


def test_faults(tmp_path, acdc, acdc_h5):
    with pytest.raises(InputError, match="No ACDC patients"):
        acdc_conversion(tmp_path)
    with pytest.raises(InputError, match="choose 1 to 70"):
        acdc_conversion(acdc_h5, 71)
    with pytest.raises(InputError, match=r"Unknown protocol 'ssl4mis-8'. Known here: ssl4mis-3, ssl4mis-7, ssl4mis-14"):
        acdc_conversion(acdc_h5, "ssl4mis-8")
    (acdc_h5 / "data" / "slices" / "patient099_frame01_slice_2.h5").unlink()
    with pytest.raises(InputError, match=r"patient099_frame01: .*lacks slices 2 of patient099_frame01"):
        write_raw_dataset(acdc_conversion(acdc_h5, 3), 27, "ACDC")
    (acdc_h5 / "data" / "patient038_frame02.h5").unlink()
    with pytest.raises(InputError, match="lacks one of the two frames of: patient038"):
        acdc_conversion(acdc_h5, 3)
    (acdc_h5 / "data" / "patient038_frame01.h5").unlink()
    with pytest.raises(InputError, match=r"lacks scans of the published lists: patient038\. Add them"):
        acdc_conversion(acdc_h5, 3)
    (acdc / "training" / "patient050" / "Info.cfg").write_text("ED: 1\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"patient050/Info.cfg has no frame number 'ES: N'"):
        acdc_conversion(acdc, 3)


def test_missing_label_is_named(acdc, raw):
    (acdc / "training" / "patient099" / "patient099_frame01_gt.nii.gz").unlink()
    with pytest.raises(InputError, match=r"patient099_frame01: .*patient099_frame01_gt\.nii\.gz is missing"):
        write_raw_dataset(acdc_conversion(acdc, 3), 27, "ACDC")
    assert list(raw.iterdir()) == []


@pytest.mark.parametrize("name", ["{}.nii.gz", "{}.nii", "scan"])
def test_a_layout_that_is_one_folder_deeper_is_told_in_one_line(acdc, raw, name):
    for path in list(acdc.glob("*/*/*_frame*.nii.gz")):
        path.rename(path.with_name("aside"))
        folder = path.with_name(name.format(path.name.removesuffix(".nii.gz")))
        folder.mkdir(exist_ok=True)
        path.with_name("aside").rename(folder / path.name)
    message = r"^\d+ files lie one folder deeper than they should: .*Move them up\.$"
    with pytest.raises(InputError, match=message) as error:
        write_raw_dataset(acdc_conversion(acdc, 3), 27, "ACDC")
    assert str(error.value).count("patient099_frame01") >= 2
    assert "more. Move" in str(error.value)
    assert str(error.value).count(";") == 10
    assert not raw.exists()


def test_linked(acdc, write, raw):
    folder = write(acdc_conversion(acdc, 3), link=True)
    for file, source in {
        "imagesTr/patient099_frame01_0000": "training/patient099/patient099_frame01",
        "labelsTr/patient099_frame01": "training/patient099/patient099_frame01_gt",
        "imagesUnlabeled/patient021_frame01_0000": "training/patient021/patient021_frame01",
    }.items():
        assert (folder / f"{file}.nii.gz").samefile(acdc / f"{source}.nii.gz")
    assert write_raw_dataset(acdc_conversion(acdc, 3), 27, "ACDC") == (folder, False)


def test_command(acdc_h5, command, tmp_path):
    result = command("acdc", acdc_h5, "--dataset-id", 27, "--labeled", "5%", "--spacing", 8, 1.4, 1.4, "-np", 1)
    assert result.exit_code == 0, result.exception
    counts, *notes, _ = result.output.rstrip().splitlines()[-5:]
    assert counts.endswith("Dataset027_ACDC: 6 labeled, 134 unlabeled, 40 test cases.")
    assert notes[0].startswith("Note: not used (10 cases: patient")
    assert notes[0].endswith("): validation cases of the published lists.")
    assert notes[1].startswith("Note: spacing given by --spacing, 8 x 1.4 x 1.4 mm (z, y, x) (all cases): the h5 files")
    assert notes[2].startswith("Note: put together from slices (2 cases: patient099_frame01, patient099_frame02): ")
    help_text = " ".join(command("acdc", "--help").output.replace("│", " ").split())
    assert "Labeled patients: a number" in help_text
    assert "ssl4mis-7 7 labeled + 63 unlabeled, 20 test (default)" in help_text


def test_real_volumes(shared_data):
    real = shared_data / "acdc"
    sample = real / "original_sample" / "data" / "patient041_frame01_slice_1.h5"
    stacked = sitk.GetArrayFromImage(read_h5_image(sample, (10, 1.5, 1.5)))
    volume = sitk.GetArrayFromImage(read_h5_image(real / "data" / "patient041_frame01.h5", (10, 1.5, 1.5)))
    assert stacked.shape == volume.shape == (6, 224, 154)
    assert np.abs(stacked - volume).max() <= 0.0082  # grey levels were merged in the volume
    assert ((stacked == 0) == (volume == 0)).all()
    labels = [read_h5_label(path, (10, 1.5, 1.5)) for path in (sample, real / "data" / "patient041_frame01.h5")]
    assert (sitk.GetArrayFromImage(labels[0]) == sitk.GetArrayFromImage(labels[1])).all()
    conversion = acdc_conversion(real, "ssl4mis-3")
    assert [len(conversion.ids(part)) for part in ("labeled", "unlabeled", "test")] == [6, 134, 40]
    listed = (real / "train.list").read_text(encoding="utf-8").split() + (real / "test.list").read_text(
        encoding="utf-8"
    ).split()
    assert [case.id for case in conversion.cases] == listed
    slices = (real / "train_slices.list").read_text(encoding="utf-8").split()[:68]
    assert {name[:10] for name in slices} == {name[:10] for name in conversion.ids("labeled")}
