"""Predictions stored otherwise than their references: compared where their voxels stand, or refused."""

import itertools
import json

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import typer
from label_files import write, write_dataset_json
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from typer.testing import CliRunner

from nnunet_ssl.cli.evaluate import evaluate
from nnunet_ssl.errors import InputError
from nnunet_ssl.results.evaluation import METRICS, evaluate_folders, measure_masks

ORIENTATIONS = [
    codes for axes in itertools.permutations(("RL", "AP", "SI")) for codes in itertools.product(*axes)
]  # fmt: skip


def oblique(spacing=(0.8, 1.5, 3.0), origin=(12.0, -40.0, 300.0)):
    """nibabel's affine of a grid that is turned out of the axes."""
    affine = np.diag([*spacing, 1.0])
    affine[:3, :3] = [[0.96, -0.28, 0], [0.28, 0.96, 0], [0, 0, 1]] @ affine[:3, :3]
    affine[:3, 3] = origin
    return affine


def asymmetric():
    """Labels ``(x, y, z)``: 1 is a bent bar, 2 a block elsewhere; no turn of the volume gives the same again."""
    labels = np.zeros((9, 11, 13), np.uint8)
    labels[1:4, 2:9, 3:5] = 1
    labels[3, 2, 3:11] = 1
    labels[6:8, 1:4, 8:12] = 2
    return labels


def save_nifti(file, labels, affine, codes=None):
    file.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(labels, affine)
    if codes:
        image = image.as_reoriented(ornt_transform(io_orientation(affine), axcodes2ornt(codes)))
    nibabel.save(image, file)


def command_of_evaluate(reference, prediction):
    app = typer.Typer()
    app.command()(evaluate)
    outcome = CliRunner().invoke(app, [str(reference), str(prediction), "-np", "1"], env={"COLUMNS": "200"})
    return outcome, outcome.output if outcome.exit_code == 0 else str(outcome.exception)


@pytest.mark.parametrize("reader", ["SimpleITKIO", "SimpleITKIOWithReorient", "NibabelIO", "NibabelIOWithReorient"])
@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_all_48_ways_to_store_a_prediction_are_measured_alike(folders, reader, ending):
    """Label 1 is predicted as it is, 2 is not: Dice 1, and the distances of the second those of the unturned file."""
    if ending != ".nii.gz" and reader.startswith("Nibabel"):
        pytest.skip("nibabel reads no such file")
    reference, prediction = folders
    content = {"labels": {"background": 0, "same": 1, "other": 2}, "file_ending": ending}
    prediction.mkdir(parents=True)
    (prediction / "dataset.json").write_text(json.dumps(content | {"overwrite_image_reader_writer": reader}))
    truth, guess = asymmetric(), asymmetric()
    guess[guess == 2] = 0
    guess[4:8, 2:5, 5:12] = 2
    for codes in ORIENTATIONS:
        for folder, labels, turn in ((reference, truth, None), (prediction, guess, codes)):
            file = folder / "".join(["case_", *codes, ending])
            save_nifti(file.with_name(f"{file.name}.nii.gz"), labels, oblique(), turn)
            if ending != ".nii.gz":  # no axis is turned by writing another format
                sitk.WriteImage(sitk.ReadImage(f"{file}.nii.gz"), file)
            else:
                file.with_name(f"{file.name}.nii.gz").rename(file)
    outcome, output = command_of_evaluate(reference, prediction)
    assert outcome.exit_code == 0, output
    result = json.loads((prediction / "metrics.json").read_text(encoding="utf-8"))
    zyx = [labels.transpose(2, 1, 0) == 2 for labels in (truth, guess)]
    expected = measure_masks(*zyx, (3.0, 1.5, 0.8))
    assert 0.2 < expected["dice"] < 0.8
    assert expected["hd95_mm"] > 1.5
    for metric in METRICS:
        cases = result["metrics"][metric]["per_case"]
        assert len(cases) == 48
        for case, values in cases.items():
            assert values["same"] == (1 if metric in ("dice", "jaccard") else 0), case
            assert values["other"] == pytest.approx(expected[metric], rel=1e-5), case
    turned = 0 if reader.endswith("Reorient") else 47  # these readers turn all files themselves
    assert len(result["space"]["turned"]) == turned
    assert (f"In {turned} case(s) the prediction is stored with other axes than the reference" in output) == (
        turned > 0
    )
    assert result["space"]["other_header"] == []


def test_two_dimensional_images_are_turned_in_their_plane(folders):
    reference, prediction = folders
    write_dataset_json(prediction, {"background": 0, "a": 1}, ".mha")
    labels = np.zeros((6, 9), np.uint8)
    labels[1:3, 1:7] = 1
    write(reference, "x.mha", labels, spacing=(2, 0.5))
    turned = sitk.Flip(sitk.PermuteAxes(sitk.ReadImage(str(reference / "x.mha")), (1, 0)), (True, False))
    sitk.WriteImage(turned, str(prediction / "x.mha"))
    result = evaluate_folders(reference, prediction)
    assert result["metrics"]["dice"]["mean"] == 1
    assert result["space"]["turned"] == ["x"]


def test_a_header_within_the_tolerance_is_measured_and_told(folders):
    reference, prediction = folders
    write_dataset_json(prediction, {"background": 0, "same": 1, "other": 2})
    for case, shift in (("equal", 0.0), ("rounded", 1e-4), ("near", 0.05), ("nearer", 0.02)):
        save_nifti(reference / f"{case}.nii.gz", asymmetric(), oblique())
        save_nifti(prediction / f"{case}.nii.gz", asymmetric(), oblique(origin=(12.0, -40.0, 300.0 + 3 * shift)))
    outcome, output = command_of_evaluate(reference, prediction)
    assert outcome.exit_code == 0, output
    assert (
        "In 2 case(s) the header of the prediction is not that of the reference, at most 0.05 voxels (0.15 mm) off: "
        "that of the reference is taken." in output
    )
    result = json.loads((prediction / "metrics.json").read_text(encoding="utf-8"))
    assert result["metrics"]["dice"]["mean"] == 1
    assert result["space"]["turned"] == []
    assert result["space"]["other_header"] == ["near", "nearer"]
    assert result["space"]["largest_voxels"] == pytest.approx(0.05, abs=1e-4)


def test_predictions_that_stand_elsewhere_are_refused_with_the_distance(folders):
    reference, prediction = folders
    write_dataset_json(prediction, {"background": 0, "same": 1, "other": 2})
    labels = asymmetric()
    tilted = oblique()
    tilted[:3, :3] = [[1, 0, 0], [0, 0.98, -0.199], [0, 0.199, 0.98]] @ tilted[:3, :3]
    wrong = {
        "moved": (labels, oblique(origin=(12.0, -40.0, 309.0)), "stands up to 3 voxels (9 mm)"),
        "tilted": (labels, tilted, "another direction"),
        "thick": (
            labels,
            oblique(spacing=(0.8, 1.5, 3.1)),
            "another spacing, 0.8 x 1.5 x 3.1 mm and not 0.8 x 1.5 x 3",
        ),
        "cut": (labels[..., 1:], oblique(), "has 9 x 11 x 12 voxels"),
        "two": (np.stack([labels, 0 * labels], -1), oblique(), "holds several volumes or colors, shape (2, 13, 11, 9)"),
    }
    for case, (array, affine, _) in wrong.items():
        save_nifti(reference / f"{case}.nii.gz", labels, oblique())
        save_nifti(prediction / f"{case}.nii.gz", array, affine)
    outcome, message = command_of_evaluate(reference, prediction)
    assert outcome.exit_code == 1
    lines = message.splitlines()[1:]
    assert len(lines) == len(wrong)
    for case, (_, _, words) in wrong.items():
        (line,) = [line for line in lines if f"{case}.nii.gz" in line]
        assert words in line
    assert not (prediction / "metrics.json").exists()


def test_colors_are_no_segmentation(folders):
    reference, prediction = folders
    write_dataset_json(prediction, {"background": 0, "a": 1}, ".png")
    write(reference, "x.png", np.ones((6, 9)))
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((6, 9, 3), np.uint8), isVector=True), str(prediction / "x.png"))
    with pytest.raises(InputError, match=r"x.png: holds several volumes or colors, shape \(3, 1, 6, 9\)"):
        evaluate_folders(reference, prediction)


def test_pictures_are_compared_as_arrays(folders):
    """Whatever a PNG says of its pixels' size; only the number of pixels must agree."""
    reference, prediction = folders
    write_dataset_json(prediction, {"background": 0, "a": 1}, ".png")
    labels = np.zeros((6, 9), np.uint8)
    labels[1:3, 1:7] = 1
    write(reference, "x.png", labels, spacing=(0.2, 0.2))
    write(prediction, "x.png", labels, spacing=(0.7, 0.7))
    result = evaluate_folders(reference, prediction)
    assert result["metrics"]["dice"]["mean"] == 1
    assert result["space"] == {"turned": [], "other_header": [], "largest_voxels": 0.0, "largest_mm": 0.0}
    write(prediction, "x.png", labels.T)
    with pytest.raises(InputError, match="x.png: the prediction has 6 x 9 x 1 voxels"):
        evaluate_folders(reference, prediction)
