"""Which runs a grid has, what state they are in, and what is refused before anything starts."""

import os
import shutil
from pathlib import Path

import pytest

from nnunet_ssl.data.splits import make_splits, read_splits
from nnunet_ssl.errors import InputError
from nnunet_ssl.runner.plan import Run, numbers, overrides_by_method, plan, words


def test_options_are_split():
    assert words(["MeanTeacher UAMT", "DHC,CPS", "DHC"]) == ["MeanTeacher", "UAMT", "DHC", "CPS"]
    assert words(None) == words([" "]) == []
    assert numbers(["0,1", "3 1"], "--folds") == [0, 1, 3]
    with pytest.raises(InputError, match="--folds all -1"):
        numbers(["0,all -1"], "--folds")


def test_grid(dataset):
    experiment, runs = plan(7, "2d", ["nnUNetTrainerMeanTeacher"], baseline="Supervised", program="x")
    assert read_splits(dataset / "splits_final.json") == make_splits([f"case{i}" for i in range(10)])
    assert runs == [Run(m, fold) for fold in range(5) for m in ("Supervised", "MeanTeacher")]
    results = Path(os.environ["nnUNet_results"])
    assert experiment.folder(runs[1]) == results / "Dataset007_X" / "nnUNetTrainerMeanTeacher__nnUNetPlans__2d/fold_0"
    experiment, runs = plan(7, "2d", ["UAMT"], [3], [4, 0], program="x")
    assert runs == [Run("UAMT", 3, 4), Run("UAMT", 3, 0)]
    assert experiment.root(runs[0]) == results / "seed_4"
    assert experiment.settings(runs[0]) == {"seed": 4}


@pytest.mark.parametrize("name", ["SupervisedMix", "nnUNetTrainerSupervisedMix"])
def test_any_trainer_can_be_the_baseline(dataset, name):
    methods = ["Supervised", "UAMT", "SupervisedMix"]
    experiment, runs = plan(7, "2d", methods, [0], baseline=name, program="x")
    assert [run.method for run in runs] == ["SupervisedMix", "Supervised", "UAMT"]
    assert experiment.baseline == "SupervisedMix"
    assert plan(7, "2d", methods, [0], program="x")[0].baseline == "Supervised"


def test_a_baseline_without_unlabeled_scans_has_none_in_its_origin(dataset):
    experiment, (mix, uamt) = plan(7, "2d", ["UAMT"], [0], baseline="SupervisedMix", program="x")
    assert experiment.origin(mix).unlabeled == () and experiment.origin(uamt).unlabeled == ("more",)
    shutil.rmtree(dataset / "nnUNetPlans_2d_unlabeled")
    assert experiment.origin(mix).train
    with pytest.raises(InputError):
        experiment.origin(uamt)


def test_a_trainer_without_unlabeled_scans_gets_no_override_of_theirs():
    overrides = overrides_by_method(["SupervisedMix", "UAMT"], "{mix_labeled: 0.5, probability: 1, num_epochs: 2}")
    assert overrides == {
        "SupervisedMix": {"probability": 1, "num_epochs": 2},
        "UAMT": {"mix_labeled": 0.5, "num_epochs": 2},
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"methods": []}, "Nothing to run"),
        ({"methods": ["MeanTaecher"]}, "no trainer nnUNetTrainerMeanTaecher"),
        ({"baseline": "SupervisedMiks"}, "no trainer nnUNetTrainerSupervisedMiks. Did you mean SupervisedMix or"),
        ({"methods": ["_5epochs"]}, "nnUNetTrainer_5epochs .* takes no overrides"),
        ({"configuration": "3d_fullres"}, "no configuration 3d_fullres. .*There are 2d"),
        ({"plans": "other"}, "other.json does not exist"),
        ({"plans": "copied"}, "calls itself nnUNetPlans"),
        ({"folds": [0, 5]}, "folds 0 to 4: there is no 5"),
        ({"config": "{seed: 1}", "seeds": [1]}, "keep one of them"),
        ({"config": "{num_epoch: 1}"}, "unknown key 'num_epoch'.*num_epochs"),
        ({"config": "{num_epochs: x}"}, "num_epochs must be of type int"),
        ({"config": "nowhere.yaml"}, "no file nowhere.yaml"),
        ({"dataset_id": 8}, "No dataset has the id 8"),
    ],
)
def test_faults_are_found_before_anything_runs(dataset, arguments, words):
    (dataset / "copied.json").write_text((dataset / "nnUNetPlans.json").read_text(encoding="utf-8"))
    with pytest.raises(InputError, match=words):
        plan(**{"dataset_id": 7, "configuration": "2d", "methods": ["MeanTeacher"], "program": "x"} | arguments)


def test_each_trainer_gets_the_overrides_that_it_knows(tmp_path):
    file = tmp_path / "overrides.yaml"
    file.write_text("num_epochs: 3\nweight: 0.5\npasses: 2\npreset: published\n", encoding="utf-8")
    overrides = overrides_by_method(["Supervised", "MeanTeacher", "UAMT"], str(file))
    assert overrides == {
        "Supervised": {"num_epochs": 3},
        "MeanTeacher": {"num_epochs": 3, "weight": 0.5, "preset": "published"},
        "UAMT": {"num_epochs": 3, "weight": 0.5, "passes": 2, "preset": "published"},
    }
    with pytest.raises(InputError, match="unknown key 'passes'"):
        overrides_by_method(["Supervised", "MeanTeacher"], str(file))


@pytest.mark.parametrize(
    ("files", "state", "flags"),
    [
        ([], "new", []),
        (["nnunet_ssl_run.log", "validation/summary.json"], "new", []),
        (["checkpoint_best.pth"], "resume", ["--c"]),
        (["checkpoint_latest.pth", "checkpoint_best.pth"], "resume", ["--c"]),
        (["checkpoint_final.pth", "checkpoint_best.pth"], "validate", ["--val"]),
        (["checkpoint_final.pth", "validation/cut off"], "validate", ["--val"]),
        (["checkpoint_final.pth", "validation/summary.json"], "finished", None),
    ],
)
def test_states(dataset, files, state, flags):
    experiment, [run] = plan(7, "2d", ["MeanTeacher"], [2], device="cpu", program="train")
    folder = experiment.folder(run)
    (folder / "validation").mkdir(parents=True)
    for name in files:
        text = '{"mean": {}}' if name.endswith("summary.json") else ""
        (folder / name.replace("cut off", "summary.json")).write_text(text or '{"mean": {', encoding="utf-8")
    assert experiment.state(run) == state
    if flags is not None:
        common = ["train", "7", "2d", "2", "-tr", "nnUNetTrainerMeanTeacher", "-p", "nnUNetPlans", "-device", "cpu"]
        assert experiment.command(run) == [*common, *flags, "--npz"]
