"""Calibration against closed forms, a slow restatement and nnU-Net's own export; and which files are refused."""

import json
import math

import numpy as np
import pytest
import SimpleITK as sitk
from label_files import write, write_dataset_json
from PIL import Image
from typer.testing import CliRunner

from nnunet_ssl.cli import app
from nnunet_ssl.errors import InputError
from nnunet_ssl.results import calibration
from nnunet_ssl.results.calibration import calibrate_folders
from nnunet_ssl.results.reliability_diagram import draw_reliability

TWO, THREE = {"background": 0, "heart": 1}, {"background": 0, "heart": 1, "liver": 2}
REGIONS = {"background": 0, "whole": [1, 2], "core": 2}


def add_case(folders, case, reference, probs, segmentation=None, labels=TWO, order=None, **saved):
    """A reference (z, y, x), probabilities (C, z, y, x), and the segmentation that nnU-Net makes of them."""
    if segmentation is None and order is None:
        segmentation = probs.argmax(0)
    elif segmentation is None:
        segmentation = np.zeros(probs.shape[1:])
        for channel, label in enumerate(order):
            segmentation[probs[channel] > 0.5] = label
    write(folders[0], f"{case}.nii.gz", reference)
    write(folders[1], f"{case}.nii.gz", segmentation)
    np.savez_compressed(folders[1] / f"{case}.npz", probabilities=probs.astype(saved.get("dtype", np.float32)))
    content = {"labels": labels, "file_ending": ".nii.gz"} | ({"regions_class_order": list(order)} if order else {})
    (folders[1] / "dataset.json").write_text(json.dumps(content), encoding="utf-8")


def softmax_case(shape, classes, seed=0):
    """Random probabilities, and a reference drawn from others: some are wrong, and all of them too sure."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(classes, *shape)) * 3
    probs = np.exp(logits) / np.exp(logits).sum(0)
    return rng.integers(0, classes, shape), probs.astype(np.float32)


def ece(probs, answers):
    """As Guo et al. write it, bin by bin."""
    total = 0.0
    for lower in range(15):
        inside = (probs > lower / 15) & (probs <= (lower + 1) / 15)
        if inside.any():
            total += inside.sum() / probs.size * abs(answers[inside].mean() - probs[inside].mean())
    return total


def test_ten_voxels_of_which_eight_are_right(folders):
    reference = np.array([1] * 8 + [0] * 2).reshape(1, 2, 5)
    add_case(folders, "a", reference, np.stack([np.full((1, 2, 5), 0.1), np.full((1, 2, 5), 0.9)]))
    found = calibrate_folders(*folders)
    nll = -(8 * math.log(0.9) + 2 * math.log(0.1)) / 10
    for kind in ("all", "foreground"):  # all ten lie in the box around the heart
        heart = found[kind]["per_class"]["heart"]
        assert (heart["ece"], heart["brier"], heart["nll"]) == pytest.approx((0.1, 0.17, nll), abs=1e-6)
        over = [found[kind][name] for name in ("ece", "class_ece", "brier", "nll")]
        assert over == pytest.approx([0.1, 0.1, 0.34, nll], abs=1e-6)
        assert heart["diagram"]["voxels"] == [0] * 13 + [10, 0]
        assert heart["diagram"]["observed"][13] == 0.8 and heart["diagram"]["probability"][0] is None
        assert found[kind]["voxels"] == 10 and found[kind]["per_case"]["a"]["brier"] == pytest.approx(0.34)


def test_sure_background_hides_what_the_foreground_shows(folders):
    reference, fore = np.zeros((4, 5, 5), int), np.zeros((4, 5, 5))
    reference[0, 0, :4], fore[0, 0, :4] = [1, 0, 0, 1], 0.8
    add_case(folders, "a", reference, np.stack([1 - fore, fore]))
    found = calibrate_folders(*folders)
    assert (found["all"]["voxels"], found["foreground"]["voxels"]) == (100, 4)
    assert found["foreground"]["ece"] == pytest.approx(0.3, abs=1e-6)
    assert found["all"]["ece"] == pytest.approx(0.3 * 4 / 100, abs=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_three_classes_of_two_cases_equal_the_slow_restatement(folders, dtype, monkeypatch):
    monkeypatch.setattr(calibration, "CHUNK", 100)
    cases = [softmax_case((4, 5, 6), 3, seed) for seed in (1, 2)]
    for number, (reference, probs) in enumerate(cases):
        add_case(folders, f"case{number}", reference, probs, labels=THREE, dtype=dtype)
    found = calibrate_folders(*folders)["all"]
    answers = np.concatenate([reference.ravel() for reference, _ in cases])
    probs = np.concatenate([probs.reshape(3, -1) for _, probs in cases], 1).astype(float)
    one_hot = np.arange(3)[:, None] == answers
    assert found["ece"] == pytest.approx(ece(probs.max(0), probs.argmax(0) == answers), abs=1e-6)
    assert found["brier"] == pytest.approx(((probs - one_hot) ** 2).sum(0).mean(), abs=1e-6)
    assert found["nll"] == pytest.approx(-np.log((probs * one_hot).sum(0)).mean(), abs=1e-5)
    for label, name in ((1, "heart"), (2, "liver")):
        p, y = probs[label], one_hot[label]
        of_class = found["per_class"][name]
        assert of_class["ece"] == pytest.approx(ece(p, y), abs=1e-6)
        assert of_class["brier"] == pytest.approx(((p - y) ** 2).mean(), abs=1e-6)
        assert of_class["nll"] == pytest.approx(-np.where(y, np.log(p), np.log(1 - p)).mean(), abs=1e-5)
    assert found["class_ece"] == pytest.approx(np.mean([found["per_class"][n]["ece"] for n in ("heart", "liver")]))
    assert sum(found["diagram"]["voxels"]) == 240


def test_regions_are_questions_of_their_own(folders):
    rng = np.random.default_rng(0)
    reference = rng.integers(0, 3, (3, 4, 5))
    probs = rng.uniform(size=(2, 3, 4, 5))
    add_case(folders, "a", reference, probs, labels=REGIONS, order=(1, 2))
    found = calibrate_folders(*folders)["all"]
    probs = probs.astype(np.float32).astype(float)
    expected = [ece(p.ravel(), y.ravel()) for p, y in zip(probs, (reference > 0, reference == 2), strict=True)]
    assert [found["per_class"][name]["ece"] for name in ("whole", "core")] == pytest.approx(expected, abs=1e-6)
    assert found["ece"] == found["class_ece"] == pytest.approx(np.mean(expected))
    assert found["diagram"] is None


def test_ignored_voxels_are_in_no_figure(folders):
    reference, probs = softmax_case((3, 4, 5), 2)
    reference[0] = 2
    add_case(folders, "a", reference, probs, labels=TWO | {"ignore": 2})
    found = calibrate_folders(*folders)["all"]
    assert found["voxels"] == 40
    assert found["per_class"]["heart"]["ece"] == pytest.approx(ece(probs[1, 1:], reference[1:] == 1), abs=1e-6)


def test_a_class_that_was_not_annotated_is_not_asked_for(folders):
    for case in "ab":
        add_case(folders, case, *softmax_case((3, 4, 5), 3, ord(case)), labels=THREE)
    file = folders[1] / "dataset.json"
    content = json.loads(file.read_text(encoding="utf-8")) | {"not_annotated": {"b": ["liver"]}}
    file.write_text(json.dumps(content), encoding="utf-8")
    found = calibrate_folders(*folders)["all"]
    assert sum(found["per_class"]["heart"]["diagram"]["voxels"]) == 120
    assert sum(found["per_class"]["liver"]["diagram"]["voxels"]) == sum(found["diagram"]["voxels"]) == 60
    assert found["per_case"]["b"]["ece"] is None and found["per_case"]["b"]["class_ece"] is not None


def test_an_array_that_numpy_stores_column_by_column(folders):
    reference, probs = softmax_case((3, 4, 5), 2)
    add_case(folders, "a", reference, probs)
    before = calibrate_folders(*folders)
    np.savez_compressed(folders[1] / "a.npz", probabilities=np.asfortranarray(probs))
    assert calibrate_folders(*folders) == before


def test_a_reference_that_is_stored_with_other_axes(folders):
    reference, probs = softmax_case((3, 4, 5), 2)
    add_case(folders, "a", reference, probs)
    before = calibrate_folders(*folders)
    image = sitk.ReadImage(str(folders[0] / "a.nii.gz"))
    sitk.WriteImage(sitk.DICOMOrient(image, "RSA"), str(folders[0] / "a.nii.gz"))
    after = calibrate_folders(*folders)
    assert after["all"]["ece"] == pytest.approx(before["all"]["ece"])
    assert after["foreground"]["nll"] == pytest.approx(before["foreground"]["nll"])
    assert after["foreground"]["diagram"]["voxels"] == before["foreground"]["diagram"]["voxels"]


@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIOWithReorient"])
@pytest.mark.parametrize("regions", [False, True])
def test_nnunets_own_export_is_read_as_it_is(folders, reader, regions, tmp_path):
    """Of a scan with turned axes, resampled, cropped and transposed: where the reference is the prediction, all of the
    largest probabilities are right."""
    from nnunetv2.inference.export_prediction import export_prediction_from_logits
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    rng = np.random.default_rng(0)
    image = sitk.GetImageFromArray(rng.normal(size=(8, 10, 12)).astype(np.float32))
    image.SetSpacing((1.0, 1.5, 3.0))
    sitk.WriteImage(sitk.DICOMOrient(image, "RIP"), str(tmp_path / "scan.nii.gz"))
    resampling = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    configuration = {
        "spacing": [2.0, 2.0, 2.0],
        "architecture": {},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": resampling,
    }
    plans = {
        "dataset_name": "Dataset007_X", "plans_name": "nnUNetPlans", "image_reader_writer": reader,
        "transpose_forward": [2, 0, 1], "transpose_backward": [1, 2, 0], "label_manager": "LabelManager",
        "configurations": {"3d_fullres": configuration},
    }  # fmt: skip
    dataset = {"labels": REGIONS if regions else THREE, "file_ending": ".nii.gz", "regions_class_order": [1, 2]}
    manager = PlansManager(plans)
    pixels, properties = manager.image_reader_writer_class().read_images([str(tmp_path / "scan.nii.gz")])
    shape = tuple(pixels.shape[1:][axis] for axis in plans["transpose_forward"])
    bounds = [[1, size - 2] for size in shape]
    cropped = tuple(high - low for low, high in bounds)
    properties |= {
        "shape_before_cropping": shape, "bbox_used_for_cropping": bounds,
        "shape_after_cropping_and_before_resampling": cropped,
    }  # fmt: skip
    folders[1].mkdir()
    logits = 3 * rng.normal(size=(2 if regions else 3, *(size - 1 for size in cropped))).astype(np.float32)
    arguments = (manager.get_configuration("3d_fullres"), manager, dataset, str(folders[1] / "a"), True)
    export_prediction_from_logits(logits, properties, *arguments)
    for name, content in (("plans", plans), ("dataset", dataset)):
        (folders[1] / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    folders[0].mkdir()
    sitk.WriteImage(sitk.ReadImage(str(folders[1] / "a.nii.gz")), str(folders[0] / "a.nii.gz"))

    found = calibrate_folders(*folders)["all"]
    assert found["voxels"] == 960
    if not regions:
        assert all(share in (1, None) for share in found["diagram"]["observed"])
    last = found["per_class"]["core" if regions else "liver"]["diagram"]
    assert last["observed"][0] == 0 and last["observed"][-1] == 1 and last["voxels"][0] > 600  # 645 were cropped


# -- what is refused ----------------------------------------------------------------------------------------------


def refused(folders):
    with pytest.raises(InputError) as caught:
        calibrate_folders(*folders)
    return str(caught.value)


def test_missing_probabilities_say_how_to_make_them(folders):
    for case in "ab":
        add_case(folders, case, *softmax_case((3, 4, 5), 2))
        (folders[1] / f"{case}.npz").unlink()
    message = refused(folders)
    assert message == (
        f"{folders[1]} has no probabilities (CASE.npz) of a, b: predict with `nnUNetv2_predict ... "
        "--save_probabilities` (or average with `nnUNetv2_ensemble ... --save_npz`)."
    )


def test_probabilities_of_another_prediction(folders):
    reference, probs = softmax_case((3, 4, 5), 2)
    add_case(folders, "a", reference, probs, segmentation=probs[:, :, ::-1].argmax(0))
    assert "a.npz: in " in (message := refused(folders)) and "not of one prediction" in message


def test_a_component_that_postprocessing_took_away_is_no_fault(folders):
    reference, probs = softmax_case((3, 4, 5), 2)
    segmentation = probs.argmax(0)
    segmentation[0] = 0
    add_case(folders, "a", reference, probs, segmentation=segmentation)
    assert calibrate_folders(*folders)["all"]["ece"] > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda probs: probs[:, :, :, 1:], "not probabilities of 2 x 3 x 4 x 5"),
        (lambda probs: probs[:1], "not probabilities of 2 x 3 x 4 x 5"),
        (lambda probs: np.log(probs), "channel 0 has values that are no probabilities"),
        (lambda probs: probs * np.nan, "channel 0 has values that are no probabilities"),
        (lambda probs: probs * 0.9, "miss 1 by up to 0.1"),
        (lambda probs: probs > 0.5, "holds bool"),
    ],
)
def test_what_are_no_probabilities(folders, change, message):
    reference, probs = softmax_case((3, 4, 5), 2)
    add_case(folders, "a", reference, probs)
    np.savez_compressed(folders[1] / "a.npz", probabilities=change(probs))
    assert message in refused(folders)


def test_a_file_that_is_cut_off(folders):
    add_case(folders, "a", *softmax_case((3, 4, 5), 2))
    file = folders[1] / "a.npz"
    file.write_bytes(file.read_bytes()[:-50])
    assert "a.npz: cannot be read" in refused(folders)
    np.savez(file, other=np.zeros(3))
    assert "a.npz: cannot be read" in refused(folders)


# -- the command and its picture ----------------------------------------------------------------------------------


def test_the_command_adds_figures_a_table_and_a_picture(folders, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    add_case(folders, "a", *softmax_case((3, 4, 5), 3), labels=THREE)
    result = CliRunner().invoke(app, ["evaluate", *map(str, folders), "--calibration", "-np", "1"])
    assert result.exit_code == 0, result.output
    saved = json.loads((folders[1] / "metrics.json").read_text(encoding="utf-8"))["calibration"]
    assert saved == json.loads(json.dumps(calibrate_folders(*folders)))
    assert f"{saved['all']['per_class']['liver']['ece']:.4f}" in result.output
    assert f"{saved['foreground']['nll']:.4f}" in result.output
    page = np.asarray(Image.open(folders[1] / "reliability.png").convert("RGB"))
    assert (page != 255).any(-1).mean() > 0.01
    plain = CliRunner().invoke(app, ["evaluate", *map(str, folders), "-np", "1"])
    assert "Calibration" not in plain.output


def test_a_picture_of_many_regions_one_of_which_is_nowhere(folders, tmp_path):
    labels = {"background": 0} | {f"organ $ {number}": number for number in range(1, 7)}
    reference, probs = softmax_case((3, 4, 5), 7)
    add_case(folders, "a", reference, probs, labels=labels)
    found = calibrate_folders(*folders)
    found["foreground"]["per_class"]["organ $ 3"] = calibration.Sums().figures() | {
        "diagram": calibration.Sums().diagram()
    }
    draw_reliability(tmp_path / "reliability.png", found, "a $ title")
    assert Image.open(tmp_path / "reliability.png").size == (1360, 790)


def test_the_dataset_of_the_files_is_needed(folders):
    write_dataset_json(folders[1], REGIONS)  # without the order in which regions are written
    add_case(folders, "a", *softmax_case((3, 4, 5), 2), labels=REGIONS)
    assert "regions_class_order" in refused(folders)
