"""The converter of Synapse/BTCV, on small volumes in both layouts."""

import json
import re
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
from synapse_source import DIRECTION, NUMBERS, SHAPE, build, voxels

from nnunet_ssl.conversion.protocols import published
from nnunet_ssl.conversion.writing import write_raw_dataset
from nnunet_ssl.dataset_conversion.synapse import ORGANS, synapse_conversion
from nnunet_ssl.errors import InputError

LABELED = ["img0009", "img0021", "img0025", "img0034"]
VALIDATION = ["img0001", "img0007", "img0023", "img0030"]


def test_default_lists(synapse, write, ids, same, save, tmp_path, said, folds):
    conversion = synapse_conversion(synapse)
    folder = write(conversion)
    assert ids(folder / "imagesTr") == ids(folder / "labelsTr") == {*LABELED, *VALIDATION}
    assert json.loads((folder / "dataset.json").read_text(encoding="utf-8"))["numTraining"] == 8
    record = json.loads((folder / "conversion.json").read_text(encoding="utf-8"))
    assert (record["labeled"], record["validation"]) == (LABELED, VALIDATION)
    assert folds() == [{"train": LABELED, "val": VALIDATION}]
    assert len(ids(folder / "imagesUnlabeled")) == 16
    test = {f"img{number:04d}" for number in (8, 27, 29, 33, 37, 39)}
    assert ids(folder / "imagesTs") == ids(folder / "labelsTs") == test
    for number, image_file, label_file in [
        (21, "imagesTr/img0021_0000", "labelsTr/img0021"),
        (8, "imagesTs/img0008_0000", "labelsTs/img0008"),
    ]:
        image, label = voxels(number)
        geometry = {"spacing": (0.7, 0.7, 3.0 + number / 10), "direction": DIRECTION}
        assert same(folder / f"{image_file}.nii.gz", save(tmp_path / "image.nii", image, **geometry))
        assert same(folder / f"{label_file}.nii.gz", save(tmp_path / "label.nii", label, **geometry))
    assert conversion.labels["portal_and_splenic_veins"] == 10
    assert conversion.labels["left_adrenal_gland"] == len(ORGANS) - 1 == 13
    assert conversion.protocol["protocol"] == "genericssl-20"
    assert said(conversion) == [
        "in the source but not used (2 cases: img0061, img0062): not in the published lists.",
    ]


def test_dhc_lists(synapse):
    everything = {f"img{number:04d}" for number in NUMBERS}
    for protocol, number in {"dhc-10": 2, "dhc-20": 4, "dhc-40": 8}.items():
        conversion = synapse_conversion(synapse / "RawData" / "Training", protocol)
        parts = [conversion.ids(part) for part in ("labeled", "unlabeled", "test", "validation")]
        assert list(map(len, parts)) == [number, 20 - number, 6, 4]
        assert sum(map(len, parts)) == 30 and set().union(*parts) == everything  # disjoint, and all scans
        assert conversion.fold() == {"train": parts[0], "val": ["img0006", "img0025", "img0026", "img0040"]}
    assert synapse_conversion(synapse, "dhc-10").ids("labeled") == ["img0023", "img0028"]
    assert synapse_conversion(synapse, "dhc-20").ids("labeled") == ["img0002", "img0023", "img0034", "img0039"]
    dhc, generic = published("synapse")["dhc-20"], published("synapse")["genericssl-20"]
    assert len(set(generic["test"]) & set(dhc["train"])) == 5


def test_counts_follow_the_training_list(synapse):
    assert synapse_conversion(synapse, 2).ids("labeled") == ["img0002", "img0003"]
    assert synapse_conversion(synapse, "10%").ids("labeled") == ["img0002", "img0003"]


def test_linked_layout_of_semi_supervised_repositories(tmp_path, save, write):
    root = build(tmp_path / "btcv", save, "imagesTr", "labelsTr")
    folder = write(synapse_conversion(root), link=True)
    for file, source in {
        "imagesUnlabeled/img0002_0000": "imagesTr/img0002",
        "labelsTs/img0008": "labelsTr/label0008",
    }.items():
        assert (folder / f"{file}.nii.gz").samefile(root / f"{source}.nii.gz")
    assert not list(folder.rglob("img0002.nii.gz"))


def test_faults(tmp_path, synapse, save):
    training = synapse / "RawData" / "Training"
    save(training / "label" / "label0009.nii.gz", np.full(SHAPE, 14, np.uint8), (0.7, 0.7, 3.9), direction=DIRECTION)
    save(training / "label" / "label0021.nii.gz", voxels(21)[1], (0.7, 0.7, 3.0), direction=DIRECTION)
    with pytest.raises(InputError) as error:
        write_raw_dataset(synapse_conversion(synapse), 27, "Synapse")
    assert "img0009: " in str(error.value)
    assert "label0009.nii.gz has label values [14]" in str(error.value)
    assert "another spacing, 0.7 x 0.7 x 3 mm and not 0.7 x 0.7 x 5.1" in str(error.value)
    (training / "label" / "label0025.nii.gz").unlink()
    with pytest.raises(InputError, match=r"lacks the labels of img0025\."):
        synapse_conversion(synapse)
    save(training / "img" / "img0002.nii", voxels(2)[0])
    with pytest.raises(InputError, match=r"holds scans twice: img0002 \("):
        synapse_conversion(synapse)
    for name in ("img0002.nii", "img0002.nii.gz", "img0034.nii.gz"):
        (training / "img" / name).unlink()
    with pytest.raises(InputError, match=r"lacks scans of the published lists: img0034, img0002\."):
        synapse_conversion(synapse)
    with pytest.raises(InputError, match="No Synapse scans"):
        synapse_conversion(training / "label")


def test_labels_with_a_header_a_hundredth_of_a_voxel_off(synapse, save, command, raw):
    label_file = synapse / "RawData" / "Training" / "label" / "label0009.nii.gz"
    label = voxels(9)[1]
    tilt = np.deg2rad(0.02)
    tilted = np.array(DIRECTION).reshape(3, 3) @ [
        [np.cos(tilt), -np.sin(tilt), 0], [np.sin(tilt), np.cos(tilt), 0], [0, 0, 1]
    ]  # fmt: skip
    save(label_file, label, (0.7, 0.7, 3.9), direction=tilted.ravel().tolist())
    result = command("synapse", synapse, "--dataset-id", 27, "-np", 1)
    assert result.exit_code == 0, result.exception
    assert re.search(
        r"\nNote: label or channel given the header of the case's \(first\) image "
        r"\(img0009; voxels off 0\.00\d+; mm off 0\.00\d+\): its own is another, by less than 0\.1 voxels",
        result.output,
    )
    folder = raw / "Dataset027_Synapse"
    image, written = (
        sitk.ReadImage(str(folder / f"{name}.nii.gz")) for name in ("imagesTr/img0009_0000", "labelsTr/img0009")
    )
    assert written.GetDirection() == image.GetDirection()
    assert (sitk.GetArrayFromImage(written) == label).all()


def test_command(synapse, command):
    result = command("synapse", synapse, "--dataset-id", 27, "--protocol", "dhc-40", "-np", 1)
    assert result.exit_code == 0, result.exception
    assert "Dataset027_Synapse: 8 labeled, 12 unlabeled, 6 test, 4 validation cases.\n" in result.output
    assert "Fold 0 trains on the labeled cases and validates on the validation cases" in result.output


def test_the_fold_of_the_protocol_comes_back_and_replaces_no_other(synapse, command, folds, raw):
    arguments = ("synapse", synapse, "--dataset-id", 27, "--protocol", "dhc-10", "-np", 1)
    assert command(*arguments).exit_code == 0
    wanted = [{"train": ["img0023", "img0028"], "val": ["img0006", "img0025", "img0026", "img0040"]}]
    assert folds() == wanted
    assert "Nothing was written" in command(*arguments).output
    folds.file.unlink()
    assert "2 labeled, 18 unlabeled" in command(*arguments).output and folds() == wanted
    other = '[{"train": ["img0023"], "val": ["img0028"]}]'
    folds.file.write_text(other, encoding="utf-8")
    error = r"Dataset027_Synapse/splits_final\.json holds other folds than the protocol's\. Remove it"
    assert re.search(error, str(command(*arguments).exception))
    shutil.rmtree(raw)
    assert re.search(error, str(command(*arguments).exception))
    assert folds.file.read_text(encoding="utf-8") == other and list(raw.iterdir()) == []


def test_lists_that_the_source_does_not_fill_are_named_before_anything_is_written(synapse, command, raw, folds):
    training = synapse / "RawData" / "Training"
    (training / "label" / "label0040.nii.gz").unlink()
    arguments = ("synapse", synapse, "--dataset-id", 27, "-np", 1, "--protocol")
    assert str(command(*arguments, "dhc-20").exception) == (
        "The source lacks the labels of img0040. Add them, or go on with others: --labeled-list FILE."
    )
    (training / "img" / "img0040.nii.gz").unlink()
    assert str(command(*arguments, "dhc-20").exception) == (
        f"{synapse} lacks scans of the published lists: img0040. "
        "Add them, or go on without them, which is no published split: --skip-missing."
    )
    assert str(command(*arguments, "dhc-30").exception) == (
        "Unknown protocol 'dhc-30'. Known here: dhc-10, dhc-20, dhc-40, genericssl-20."
    )
    assert not raw.exists() and not folds.file.exists()
