"""The converter of the LA data set, on small volumes in the original layouts and on real scans where present."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import SimpleITK as sitk
from la_source import DIRECTION, ORIGIN, SPACING, TEST, TRAIN, scan, write_h5, write_lists, write_nrrd
from typer.testing import CliRunner

from nnunet_ssl.cli import app
from nnunet_ssl.conversion.writing import write_raw_dataset
from nnunet_ssl.dataset_conversion.la import DUPLICATE, PROTOCOL, la_conversion
from nnunet_ssl.errors import InputError

REAL = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "la"


def read(path: Path) -> tuple[np.ndarray, sitk.Image]:
    """Voxels in the axes (x, y, z), and the image."""
    image = sitk.ReadImage(str(path))
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0), image


def ids(folder: Path) -> set[str]:
    return {path.name.removesuffix(".nii.gz").removesuffix("_0000") for path in folder.iterdir()}


def test_h5(la_h5, verify):
    (la_h5 / "2018LA_Seg_Training Set" / "ID1" / "desktop.ini").write_text("[.ShellClassInfo]", encoding="utf-8")
    folder, _ = write_raw_dataset(la_conversion(la_h5, labeled=2), 18, "LA")
    verify(folder)
    assert ids(folder / "imagesTr") == ids(folder / "labelsTr") == {"ID4", "ID1"}
    assert ids(folder / "imagesUnlabeled") == {"ID3", "ID2"}
    assert ids(folder / "imagesTs") == ids(folder / "labelsTs") == {"ID5", "ID6"}
    # Two labeled and two test labels, and no label of an unlabeled scan anywhere.
    assert len([path for path in folder.rglob("*.nii.gz") if not path.name.endswith("_0000.nii.gz")]) == 4
    for images, name in {"imagesTr": "ID1", "imagesUnlabeled": "ID3", "imagesTs": "ID6"}.items():
        voxels, image = read(folder / images / f"{name}_0000.nii.gz")
        assert voxels.dtype == np.float32
        assert (voxels == (scan(name)[0].astype(np.float32) - 100) / 50).all()
        assert image.GetSpacing() == (0.625, 0.625, 0.625)
        assert image.GetOrigin() == (0, 0, 0)
        assert image.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)
    voxels, label = read(folder / "labelsTs" / "ID5.nii.gz")
    assert voxels.dtype == np.uint8
    assert (voxels == scan("ID5")[1]).all()
    assert label.GetSpacing() == (0.625, 0.625, 0.625)
    assert json.loads((folder / "dataset.json").read_text(encoding="utf-8")) == {
        "channel_names": {"0": "LGE_MRI"},
        "labels": {"background": 0, "left_atrium": 1},
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }


def test_h5_stored_as_scaled_integers(la_h5):
    path = la_h5 / "2018LA_Seg_Training Set" / "ID4" / "mri_norm2.h5"
    image, label = scan("ID4")
    with h5py.File(path, "w") as file:
        file["image"], file["label"] = image, label
        file["image"].attrs["scale"], file["image"].attrs["offset"] = 0.02, -2.0
    folder, _ = write_raw_dataset(la_conversion(la_h5, 1), 18, "LA")
    notes = json.loads((folder / "conversion.json").read_text(encoding="utf-8"))["notes"]
    assert [(note["what"], note["cases"]) for note in notes] == [
        ("spacing of 0.625 mm and axes (x, y, z) assumed", "all"),
        ("cropped around the ground truth, test scans too", "all"),
        ("gray levels restored as 32-bit floats", ["ID4"]),
    ]
    voxels, _ = read(folder / "imagesTr" / "ID4_0000.nii.gz")
    assert (voxels == (image * 0.02 - 2.0).astype(np.float32)).all()


def test_nrrd_keeps_its_geometry(la, verify, said):
    write_nrrd(la / "Testing Set", ["ID8", "ID9"])
    conversion = la_conversion(la, labeled=2)
    folder, _ = write_raw_dataset(conversion, 18, "LA")
    verify(folder)
    assert ids(folder / "imagesUnlabeled") == {"ID3", "ID2"}
    assert [path.name for path in folder.rglob("ID[89]*")] == []
    assert said(conversion) == [
        "in the source but not used (2 cases: ID8, ID9): not in the lists of the source.",
        "label 255 written as 1 (all cases): the numbers of nnU-Net's labels follow each other.",
    ]
    for path, expected in {
        "imagesTr/ID4_0000": scan("ID4")[0],
        "imagesUnlabeled/ID3_0000": scan("ID3")[0],
        "labelsTr/ID4": scan("ID4")[1],
        "labelsTs/ID6": scan("ID6")[1],
    }.items():
        voxels, image = read(folder / f"{path}.nii.gz")
        assert voxels.dtype == np.uint8
        assert (voxels == expected).all()
        assert (image.GetSpacing(), image.GetOrigin(), image.GetDirection()) == (SPACING, ORIGIN, DIRECTION)


def test_unlabeled_scans_need_no_label_file(la):
    for name in ("ID2", "ID3"):
        (la / "Training Set" / name / "laendo.nrrd").unlink()
    folder, _ = write_raw_dataset(la_conversion(la, labeled=2), 18, "LA")
    assert ids(folder / "imagesUnlabeled") == {"ID3", "ID2"}


@pytest.mark.parametrize(
    ("scans", "lists", "source"),
    [
        ("LA", ".", "."),
        ("LA", "data_split", "."),
        ("LA", "LA", "."),
        ("2018LA_Seg_Training Set", ".", "2018LA_Seg_Training Set"),
        (".", ".", "."),
    ],
)
def test_places_of_scans_and_lists(tmp_path, scans, lists, source):
    root = tmp_path / "root"
    write_h5(root / scans)
    write_lists(root / lists)
    conversion = la_conversion(root / source, labeled=1)
    assert conversion.ids("labeled") == ["ID4"]
    assert conversion.ids("unlabeled") == ["ID1", "ID3", "ID2"]
    assert conversion.ids("test") == TEST
    assert conversion.protocol["name"] == "LA, own lists"


def test_published_lists_are_used_without_lists_in_the_source(tmp_path, said):
    published = json.loads(PROTOCOL.read_text(encoding="utf-8"))
    assert (len(set(published["train"])), len(set(published["test"]))) == (80, 20)
    assert not set(published["train"]) & set(published["test"])
    for name in published["train"] + published["test"]:
        folder = tmp_path / "source" / "Training Set" / name
        folder.mkdir(parents=True)
        (folder / "lgemri.nrrd").touch()
    conversion = la_conversion(tmp_path / "source")
    assert conversion.ids("labeled") == published["train"][:8]
    assert conversion.ids("labeled")[:2] == ["06SR5RBREL16DQ6M8LWS", "0RZDK210BSMWAA6467LU"]
    assert conversion.ids("unlabeled") == published["train"][8:]
    assert conversion.ids("test") == published["test"]
    assert conversion.protocol["name"] == "LA, 80 training and 20 test scans (Yu et al., MICCAI 2019)"
    assert conversion.protocol["lists"] == "published lists"
    both = f"both kept (2 cases: {', '.join(DUPLICATE)}): they are the same scan; the published lists have both."
    assert both in said(conversion)
    shutil.rmtree(tmp_path / "source" / "Training Set" / published["train"][5])
    with pytest.raises(InputError, match=rf"lacks scans of the published lists: {published['train'][5]}\."):
        la_conversion(tmp_path / "source")


def test_protocol_named_by_the_user_leads(tmp_path, la_h5):
    assert la_conversion(la_h5, "50%").ids("labeled") == ["ID4", "ID1"]
    with pytest.raises(InputError, match="lacks scans of the published lists: 06SR5RBREL16DQ6M8LWS"):
        la_conversion(la_h5, "ua-mt-4")
    published = json.loads(PROTOCOL.read_text(encoding="utf-8"))
    for name in published["train"] + published["test"]:
        (tmp_path / "challenge" / name).mkdir(parents=True)
        (tmp_path / "challenge" / name / "lgemri.nrrd").touch()
    conversion = la_conversion(tmp_path / "challenge", "ua-mt-16")
    assert [len(conversion.ids(part)) for part in ("labeled", "unlabeled", "test")] == [16, 64, 20]
    assert conversion.protocol["protocol"] == "ua-mt-16"


def test_faults_of_the_source(tmp_path, la_h5):
    with pytest.raises(InputError, match="is no folder"):
        la_conversion(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="No LA scans"):
        la_conversion(tmp_path / "empty")
    with pytest.raises(InputError, match="choose 1 to 4"):
        la_conversion(la_h5, 5)
    write_lists(la_h5, test=["ID6", "ID1"])
    with pytest.raises(InputError, match=r"In train\.list and in test\.list: ID1"):
        la_conversion(la_h5, 1)
    write_lists(la_h5, train=["ID4", "NO1", "NO2"])
    with pytest.raises(InputError, match="lacks scans of the lists of the source: NO1, NO2"):
        la_conversion(la_h5, 1)
    (la_h5 / "test.list").unlink()
    with pytest.raises(InputError, match=r"holds train\.list only"):
        la_conversion(la_h5, 1)


def test_scan_present_twice(la_h5):
    write_h5(la_h5 / "copy", ["ID2"])
    with pytest.raises(InputError, match=r"holds scans twice: ID2 \("):
        la_conversion(la_h5, 1)


def test_h5_files_written_beside_the_nrrd_files_lead(la, said):
    for name in (*TRAIN, *TEST):
        image, label = scan(name)
        with h5py.File(la / "Training Set" / name / "mri_norm2.h5", "w") as file:
            file["image"], file["label"] = image, label
    conversion = la_conversion(la, 1)
    assert conversion.source["layout"] == "preprocessed h5 (mri_norm2.h5)"
    assert said(conversion)[0].startswith("nrrd files not used (6 cases: ID1, ID2, ID3, ID4, ID5, ID6): ")


def test_bad_h5_files_are_named_together(la_h5, raw):
    folder = la_h5 / "2018LA_Seg_Training Set"
    path = folder / "ID3" / "mri_norm2.h5"
    path.write_bytes(path.read_bytes()[:-200])
    with h5py.File(folder / "ID1" / "mri_norm2.h5", "a") as file:
        del file["label"]
    with h5py.File(folder / "ID4" / "mri_norm2.h5", "a") as file:
        file["label"][...] = 0
    with h5py.File(folder / "ID6" / "mri_norm2.h5", "a") as file:
        del file["label"]
        file["label"] = np.ones((12, 10, 7), np.uint8)
    with h5py.File(folder / "ID5" / "mri_norm2.h5", "a") as file:
        file["label"][0, 0, 0] = 3
    with h5py.File(folder / "ID2" / "mri_norm2.h5", "a") as file:
        file["label"][...] = 9  # of an unlabeled scan: never looked at
    with pytest.raises(InputError) as error:
        write_raw_dataset(la_conversion(la_h5, 2), 18, "LA")
    message = str(error.value)
    assert "ID4/mri_norm2.h5 has no left atrium in its label" in message
    assert "ID1/mri_norm2.h5 has no 'label'" in message
    assert "ID3/mri_norm2.h5 cannot be read (damaged or truncated)" in message
    assert "ID6/mri_norm2.h5 has 12 x 10 x 7 voxels (7.5 x 6.25 x 4.375 mm) but the case's (first) image" in message
    assert "ID5/mri_norm2.h5 has label values [3] besides [0, 1]" in message
    assert "ID2" not in message
    assert list(raw.iterdir()) == []


def test_bad_nrrd_files_are_named_together(la, raw):
    folder = la / "Training Set"
    (folder / "ID4" / "laendo.nrrd").unlink()
    label = sitk.ReadImage(str(folder / "ID1" / "laendo.nrrd"))
    label[0, 0, 0] = 128
    sitk.WriteImage(label, str(folder / "ID1" / "laendo.nrrd"))
    path = folder / "ID2" / "lgemri.nrrd"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError) as error:
        write_raw_dataset(la_conversion(la, 2), 18, "LA")
    message = str(error.value)
    assert "ID4: " in message
    assert "ID4/laendo.nrrd is missing" in message
    assert "ID1/laendo.nrrd has label values [128] besides 0 and 255" in message
    assert "ID2/lgemri.nrrd cannot be read" in message
    assert list(raw.iterdir()) == []


def run(*arguments: object):
    return CliRunner().invoke(app, ["convert", "la", *map(str, arguments)])


def test_command(la_h5, raw):
    arguments = (la_h5, "--dataset-id", 18, "--labeled", 1, "-np", 2)
    first = run(*arguments)
    assert first.exit_code == 0
    assert "Dataset018_LA: 1 labeled, 3 unlabeled, 2 test cases" in first.output
    before = {path: path.stat().st_mtime_ns for path in raw.rglob("*")}
    second = run(*arguments)
    assert second.exit_code == 0
    assert "already there" in second.output
    other = run(la_h5, "--dataset-id", 18, "--labeled", 2)
    assert isinstance(other.exception, InputError)
    assert "differs in protocol, labeled, unlabeled" in str(other.exception)
    other_name = run(la_h5, "--dataset-id", 18, "--labeled", 1, "--name", "Atrium")
    assert isinstance(other_name.exception, InputError)
    assert {path: path.stat().st_mtime_ns for path in raw.rglob("*")} == before


def test_command_with_a_list(la_h5, raw, tmp_path):
    chosen = tmp_path / "chosen.txt"
    chosen.write_text("ID2\nID1\n", encoding="utf-8")
    result = run(la_h5, "--dataset-id", 5, "--labeled-list", chosen, "--name", "Own", "-np", 1)
    assert result.exit_code == 0
    assert ids(raw / "Dataset005_Own" / "imagesTr") == {"ID1", "ID2"}
    assert ids(raw / "Dataset005_Own" / "imagesUnlabeled") == {"ID3", "ID4"}
    both = run(la_h5, "--dataset-id", 6, "--labeled-list", chosen, "--labeled", 2)
    assert "not both" in str(both.exception)


@pytest.mark.skipif(not REAL.is_dir(), reason="the LA data set is not beside the checkout")
def test_three_real_scans(tmp_path):
    labeled, unlabeled, test = (
        "06SR5RBREL16DQ6M8LWS",
        DUPLICATE[1],
        (REAL / "test.list").read_text(encoding="utf-8").split()[0],
    )
    source = tmp_path / "real"
    for name in (labeled, unlabeled, test):
        (source / "LA" / name).mkdir(parents=True)
        original = REAL / "2018LA_Seg_Training Set" / name / "mri_norm2.h5"
        (source / "LA" / name / "mri_norm2.h5").symlink_to(original.resolve())
    write_lists(source / "data_split", [labeled, unlabeled], [test])
    folder, _ = write_raw_dataset(la_conversion(source, 1), 18, "LA", processes=2)
    assert [len(list((folder / f"images{part}").iterdir())) for part in ("Tr", "Unlabeled", "Ts")] == [1, 1, 1]
    voxels, image = read(folder / "labelsTr" / f"{labeled}.nii.gz")
    assert image.GetSize() == (183, 140, 88)
    assert voxels.sum() == 154296  # as counted in the source's file
    voxels, _ = read(folder / "imagesTr" / f"{labeled}_0000.nii.gz")
    # Range of the original float32 file; two neighboring grey levels were merged in this one.
    assert voxels.min() == pytest.approx(-0.7704, abs=0.04)
    assert voxels.max() == pytest.approx(6.3475, abs=0.04)
