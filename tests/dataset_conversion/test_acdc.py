"""The converter of the ACDC data set, on small volumes in both layouts and on real volumes where present."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ssl.conversion.protocols import published
from nnunet_ssl.conversion.writing import write_raw_dataset
from nnunet_ssl.dataset_conversion.acdc import acdc_conversion, read_h5_image, read_h5_label
from nnunet_ssl.errors import InputError

LISTS = published("acdc")["ssl4mis-3"]
PATIENTS = LISTS["train"] + LISTS["test"]
FIRST = ["patient099", "patient038", "patient050"]
SHAPE = (4, 9, 7)  # (z, y, x)


def frame(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Image and label of a frame, different for each."""
    image = np.random.default_rng(int.from_bytes(name.encode(), "big")).integers(1, 900, SHAPE).astype(np.int16)
    image[0, 0, :2] = 0
    label = np.zeros(SHAPE, np.uint8)
    label[1:3, 2:8, 1:6] = np.arange(1, 6) % 4
    return image, label


def es_frame(patient: str) -> int:
    return 7 + int(patient[-3:]) % 9


@pytest.fixture
def original(tmp_path, save) -> Path:
    """The challenge's layout; labels of training patients outside the labeled 3 would fail if they were read."""
    source = tmp_path / "ACDC" / "database"
    for patient in [*PATIENTS, "patient101"]:
        folder = source / ("testing" if patient == "patient101" else "training") / patient
        for number in (1, es_frame(patient)):
            name = f"{patient}_frame{number:02d}"
            image, label = frame(name)
            save(folder / f"{name}.nii.gz", image, (1.5625, 1.5625, 10.0))
            if patient in FIRST + LISTS["test"]:
                save(folder / f"{name}_gt.nii.gz", label, (1.5625, 1.5625, 10.0))
            elif patient != "patient101":
                (folder / f"{name}_gt.nii.gz").write_text("not to be opened", encoding="utf-8")
        (folder / f"{patient}_4d.nii.gz").write_text("not to be opened", encoding="utf-8")
        (folder / "Info.cfg").write_text(
            f"ED: 1\nES: {es_frame(patient)}\nGroup: DCM\nHeight: 184.0\nNbFrame: 30\nWeight: 95.0\n", encoding="utf-8"
        )
    return source


@pytest.fixture
def h5_source(tmp_path) -> Path:
    """The h5 layout: volumes, and slices only for the first patient."""
    source = tmp_path / "ACDC_h5"
    (source / "data").mkdir(parents=True)
    for patient in PATIENTS:
        for number in (1, 2):
            name = f"{patient}_frame{number:02d}"
            image, label = frame(name)
            image = image.astype(np.float32) / 900
            if patient == FIRST[0]:
                for z in range(SHAPE[0]):
                    write_h5(source / "data" / "slices" / f"{name}_slice_{z + 1}.h5", image[z], label[z])
            else:
                write_h5(source / "data" / f"{name}.h5", image, label)
    return source


def write_h5(path: Path, image: np.ndarray, label: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("image", data=image, compression="gzip")
        file.create_dataset("label", data=label, compression="gzip")


def frames(patients: list[str], es=es_frame) -> set[str]:
    return {f"{patient}_frame{number:02d}" for patient in patients for number in (1, es(patient))}


def test_original(original, write, ids, said):
    conversion = acdc_conversion(original, 3)
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


def test_h5(h5_source, write, ids):
    conversion = acdc_conversion(h5_source, "ssl4mis-3")
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


def test_patients_are_never_divided(h5_source):
    for labeled, number in {None: 7, "10%": 7, "5%": 3, "ssl4mis-14": 14, 70: 70}.items():
        conversion = acdc_conversion(h5_source, labeled)
        parts = [{name[:10] for name in conversion.ids(part)} for part in ("labeled", "unlabeled", "test")]
        assert [len(part) for part in parts] == [number, 70 - number, 20]
        assert len(set.union(*parts)) == 90
        assert not set.union(*parts) & set(LISTS["validation"])
        assert len(conversion.cases) == 180


def test_spacing_of_the_user(h5_source, original):
    image = acdc_conversion(h5_source, 3, (5.0, 1.25, 1.75)).read_image(h5_source / "data" / "patient038_frame01.h5")
    assert image.GetSpacing() == (1.75, 1.25, 5.0)
    with pytest.raises(InputError, match="three positive numbers"):
        acdc_conversion(h5_source, 3, (5.0, 0.0, 1.75))
    with pytest.raises(InputError, match="--spacing is for the h5 files"):
        acdc_conversion(original, 3, (5.0, 1.25, 1.75))


def test_uncompressed_original(original, save):
    folder = original / "training" / "patient099"
    for path in list(folder.glob("*_frame*.nii.gz")):
        image = sitk.ReadImage(str(path))
        sitk.WriteImage(image, str(path).removesuffix(".gz"))
        path.unlink()
    conversion = acdc_conversion(original / "training", 3)
    assert conversion.cases[0].images[0].name == "patient099_frame01.nii"
    assert conversion.cases[0].label.name == "patient099_frame01_gt.nii"


def test_faults(tmp_path, original, h5_source):
    with pytest.raises(InputError, match="No ACDC patients"):
        acdc_conversion(tmp_path)
    with pytest.raises(InputError, match="choose 1 to 70"):
        acdc_conversion(h5_source, 71)
    with pytest.raises(InputError, match=r"Unknown protocol 'ssl4mis-8'. Known here: ssl4mis-3, ssl4mis-7, ssl4mis-14"):
        acdc_conversion(h5_source, "ssl4mis-8")
    (h5_source / "data" / "slices" / "patient099_frame01_slice_2.h5").unlink()
    with pytest.raises(InputError, match=r"patient099_frame01: .*lacks slices 2 of patient099_frame01"):
        write_raw_dataset(acdc_conversion(h5_source, 3), 27, "ACDC")
    (h5_source / "data" / "patient038_frame02.h5").unlink()
    with pytest.raises(InputError, match="lacks one of the two frames of: patient038"):
        acdc_conversion(h5_source, 3)
    (h5_source / "data" / "patient038_frame01.h5").unlink()
    with pytest.raises(InputError, match=r"lacks scans of the published lists: patient038\. Add them"):
        acdc_conversion(h5_source, 3)
    (original / "training" / "patient050" / "Info.cfg").write_text("ED: 1\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"patient050/Info.cfg has no frame number 'ES: N'"):
        acdc_conversion(original, 3)


def test_missing_label_is_named(original, raw):
    (original / "training" / "patient099" / "patient099_frame01_gt.nii.gz").unlink()
    with pytest.raises(InputError, match=r"patient099_frame01: .*patient099_frame01_gt\.nii\.gz is missing"):
        write_raw_dataset(acdc_conversion(original, 3), 27, "ACDC")
    assert list(raw.iterdir()) == []


@pytest.mark.parametrize("name", ["{}.nii.gz", "{}.nii", "scan"])
def test_a_layout_that_is_one_folder_deeper_is_told_in_one_line(original, raw, name):
    for path in list(original.glob("*/*/*_frame*.nii.gz")):
        path.rename(path.with_name("aside"))
        folder = path.with_name(name.format(path.name.removesuffix(".nii.gz")))
        folder.mkdir(exist_ok=True)
        path.with_name("aside").rename(folder / path.name)
    message = r"^\d+ files lie one folder deeper than they should: .*Move them up\.$"
    with pytest.raises(InputError, match=message) as error:
        write_raw_dataset(acdc_conversion(original, 3), 27, "ACDC")
    assert str(error.value).count("patient099_frame01") >= 2
    assert "more. Move" in str(error.value)
    assert str(error.value).count(";") == 10
    assert not raw.exists()


def test_linked(original, write, raw):
    folder = write(acdc_conversion(original, 3), link=True)
    for file, source in {
        "imagesTr/patient099_frame01_0000": "training/patient099/patient099_frame01",
        "labelsTr/patient099_frame01": "training/patient099/patient099_frame01_gt",
        "imagesUnlabeled/patient021_frame01_0000": "training/patient021/patient021_frame01",
    }.items():
        assert (folder / f"{file}.nii.gz").samefile(original / f"{source}.nii.gz")
    assert write_raw_dataset(acdc_conversion(original, 3), 27, "ACDC") == (folder, False)


def test_command(h5_source, command, tmp_path):
    result = command("acdc", h5_source, "--dataset-id", 27, "--labeled", "5%", "--spacing", 8, 1.4, 1.4, "-np", 1)
    assert result.exit_code == 0, result.exception
    counts, *notes, _ = result.output.rstrip().splitlines()[-5:]
    assert counts.endswith("Dataset027_ACDC: 6 labeled, 134 unlabeled, 40 test cases.")
    assert notes[0].startswith("Note: not used (10 cases: patient")
    assert notes[0].endswith("): validation cases of the published lists.")
    assert notes[1].startswith("Note: spacing given by --spacing, 8 x 1.4 x 1.4 mm (z, y, x) (all cases): the h5 files")
    assert notes[2].startswith("Note: put together from slices (2 cases: patient099_frame01, patient099_frame02): ")
    help_text = " ".join(command("acdc", "--help").output.replace("│", " ").split())
    assert "Labeled patients: a number" in help_text
    assert "ssl4mis-7 (default), ssl4mis-3, ssl4mis-14" in help_text


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
