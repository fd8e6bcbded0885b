"""Which cases of a reference a model has learned, where its folder of predictions tells what made it."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import typer
from origins import leave_origin
from typer.testing import CliRunner

from nnunet_ssl.cli.evaluate import evaluate
from nnunet_ssl.data.origin import ORIGIN_FILE
from nnunet_ssl.errors import InputError
from nnunet_ssl.results.seen import ARGUMENTS, seen_cases, seen_in_words

NAME = "Dataset007_X"


@pytest.fixture
def results(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    return tmp_path / "results"


def train(results: Path, name: str, *learned: str, origin=True, **changes) -> Path:
    """A trained fold with the labels that it has learned."""
    folder = results / name
    (folder / "validation").mkdir(parents=True)
    (folder / "checkpoint_final.pth").touch()
    if origin:
        leave_origin(folder, learned=learned, **changes)
    return folder


def predict(folder: Path, dataset=NAME, plans="nnUNetPlans") -> Path:
    """What nnU-Net writes beside predictions."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ARGUMENTS).write_text("{}", encoding="utf-8")
    content = {"dataset_name": dataset, "plans_name": plans}
    (folder / "plans.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_a_validation_is_of_its_fold(results):
    fold = train(results, f"{NAME}/nnUNetTrainerBCP__nnUNetPlans__2d/fold_0", "a", "b", "c")
    name = "nnUNetTrainerBCP__nnUNetPlans__2d/fold_0"
    seen = seen_cases(fold / "validation", ["v", "w"])
    assert seen == {"certain": True, "models": {name: []}}
    assert seen_in_words(seen) == [f"None of these cases was learned by {name}."]
    seen = seen_cases(fold / "validation", ["v", "c", "a"])
    assert seen == {"certain": True, "models": {name: ["a", "c"]}}
    assert seen_in_words(seen) == [f"Warning: {name} has learned 2 case(s) of these names: a, c"]
    (fold / ORIGIN_FILE).unlink()
    assert seen_in_words(seen_cases(fold / "validation", ["v"])) == [f"What was learned is not known of {name}"]


def test_predictions_may_be_of_every_fold_of_their_plans(results, tmp_path):
    """nnU-Net notes no trainer and no fold."""
    train(results, f"{NAME}/nnUNetTrainerBCP__nnUNetPlans__2d/fold_0", "a", "b")
    train(results, f"seed_1/{NAME}/nnUNetTrainerBCP__nnUNetPlans__2d/fold_0", "c")
    train(results, f"{NAME}/nnUNetTrainer__nnUNetPlans__2d/fold_0", origin=False)
    train(results, f"{NAME}/nnUNetTrainerBCP__nnUNetPlans_other__2d/fold_0", "a")
    train(results, "Dataset008_Y/nnUNetTrainerBCP__nnUNetPlans__2d/fold_0", "a")
    seen = seen_cases(predict(tmp_path / "out"), ["a", "x"])
    bcp, stock = (f"{NAME}/{trainer}__nnUNetPlans__2d/fold_0" for trainer in ("nnUNetTrainerBCP", "nnUNetTrainer"))
    assert seen == {"certain": False, "models": {stock: None, bcp: ["a"], f"seed_1/{bcp}": []}}
    assert seen_in_words(seen) == [
        "Which model predicted is not noted; 3 trained fold(s) have its plans.",
        f"Warning: {bcp} has learned 1 case(s) of these names: a",
        f"What was learned is not known of {stock}",
    ]
    assert seen_in_words(seen_cases(predict(tmp_path / "other", plans="nnUNetPlans_other"), ["x"])) == [
        "Which model predicted is not noted; 1 trained fold(s) have its plans.",
        "None of these cases was learned by any of them.",
    ]


def test_unknown_is_said_to_be_unknown(results, tmp_path, monkeypatch):
    unknown = {"certain": False, "models": {}}
    (tmp_path / "out").mkdir()
    assert seen_cases(tmp_path / "out", ["a"]) == unknown  # from anywhere
    assert seen_in_words(unknown) == ["Which cases the model has learned is not known."]
    train(results, f"{NAME}/nnUNetTrainerBCP__nnUNetPlans__2d/fold_0", "b", complete=False)
    [models] = [seen_cases(predict(tmp_path / "out"), [case])["models"] for case in "a"]
    assert list(models.values()) == [None]  # it began with weights of unknown origin
    [learned] = seen_cases(tmp_path / "out", ["a", "b"])["models"].values()
    assert learned == ["b"]
    assert seen_cases(predict(tmp_path / "star", plans="*"), ["b"]) == unknown
    monkeypatch.delenv("nnUNet_results")
    assert seen_cases(tmp_path / "out", ["a"]) == unknown


def test_damaged_files_are_named(results, tmp_path):
    fold = train(results, f"{NAME}/nnUNetTrainerBCP__nnUNetPlans__2d/fold_0", "b")
    (predict(tmp_path / "out") / "plans.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="plans.json is not valid JSON"):
        seen_cases(tmp_path / "out", ["a"])
    (fold / ORIGIN_FILE).write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=f"{ORIGIN_FILE} is not valid JSON"):
        seen_cases(fold / "validation", ["a"])


def test_long_lists_are_cut(results, tmp_path):
    for fold in range(12):
        train(results, f"{NAME}/nnUNetTrainerBCP__nnUNetPlans__2d/fold_{fold}", *(f"case_{i:02d}" for i in range(14)))
    lines = seen_in_words(seen_cases(predict(tmp_path / "out"), [f"case_{i:02d}" for i in range(20)]))
    assert len(lines) == 12 and lines[-1] == "and 2 lines more, see the JSON"
    assert "has learned 14 case(s) of these names: case_00," in lines[1] and lines[1].endswith("case_09, and 4 more")


def test_the_command_warns_and_writes_it_down(results):
    fold = train(results, f"{NAME}/nnUNetTrainerBCP__nnUNetPlans__2d/fold_0", "a")
    prediction, reference = fold / "validation", results.parent / "labels"
    reference.mkdir()
    content = json.dumps({"labels": {"background": 0, "organ": 1}, "file_ending": ".nii.gz"})
    (prediction / "dataset.json").write_text(content, encoding="utf-8")
    mask = np.zeros((5, 5, 5), np.uint8)
    mask[1:3, 1:3, 1:3] = 1
    for folder in (prediction, reference):
        for case in ("a", "v"):
            sitk.WriteImage(sitk.GetImageFromArray(mask), str(folder / f"{case}.nii.gz"))
    app = typer.Typer()
    app.command()(evaluate)
    outcome = CliRunner().invoke(app, [str(reference), str(prediction), "-np", "1"])
    assert outcome.exit_code == 0, outcome.output
    model = "nnUNetTrainerBCP__nnUNetPlans__2d/fold_0"
    assert f"\nWarning: {model} has learned 1 case(s) of these names: a\n" in outcome.output
    written = json.loads((prediction / "metrics.json").read_text(encoding="utf-8"))
    assert written["seen"] == {"certain": True, "models": {model: ["a"]}}
