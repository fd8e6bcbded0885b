"""The test cases of trained folds: predicted and measured once, with the final checkpoint, after the training."""

import json
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from skimage.io import imsave
from trainings import begin, finish

from nnunet_ssl.errors import InputError
from nnunet_ssl.runner import plan as planning
from nnunet_ssl.runner.local import run_local
from nnunet_ssl.runner.plan import plan
from nnunet_ssl.runner.table import make_table, markdown
from nnunet_ssl.runner.testing import measure_fold, require_test_cases

# Stands in for nnUNetv2_predict: writes what lies in `predictions` beside it.
PREDICT = """#!{python} -IS
import shutil, sys
from pathlib import Path
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert sorted(path.name for path in Path(options["-i"]).iterdir()) == ["t1_0000.png", "t2_0000.png"]
if not (Path(__file__).parent / "predictions").is_dir():
    sys.exit(3)
shutil.copytree(Path(__file__).parent / "predictions", options["-o"])
"""
# Stands in for nnunet_ssl.runner.testing as a program.
MEASURE = """
import json, sys
from pathlib import Path
print(" ".join(sys.argv[1:]))
if (Path(__file__).parent / "fail").exists():
    sys.exit("no such scan")
values = {"mean": 0.25, "per_class": {"liver": 0.25, "spleen": None}}
folder = Path(sys.argv[2]) / "test"
folder.mkdir()
metrics = {"metrics": {"dice": values, "asd_mm": values}}
(folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
"""


@pytest.fixture
def raw(dataset, tmp_path) -> Path:
    """The raw dataset with two test cases, each 4 x 8 with a liver of 8 pixels and a spleen of 4."""
    folder = tmp_path / "raw" / "Dataset007_X"
    label = np.zeros((4, 8), np.uint8)
    label[:, :2], label[:, 4] = 1, 2
    for case in ("t1", "t2"):
        for place, name in (("imagesTs", f"{case}_0000.png"), ("labelsTs", f"{case}.png")):
            (folder / place).mkdir(parents=True, exist_ok=True)
            imsave(folder / place / name, label, check_contrast=False)
    (folder / "dataset.json").write_text((dataset / "dataset.json").read_text(encoding="utf-8"), encoding="utf-8")
    return folder


@pytest.fixture
def predict(tmp_path) -> Path:
    program = tmp_path / "predictor" / "predict"
    (program.parent / "predictions").mkdir(parents=True)
    for case, first in (("t1", 0), ("t2", 1)):  # half of the second liver is missed, and so is its spleen
        label = np.zeros((4, 8), np.uint8)
        label[:, first:2], label[:, 4] = 1, 2 * (case == "t1")
        imsave(program.parent / "predictions" / f"{case}.png", label, check_contrast=False)
    program.write_text(PREDICT.format(python=sys.executable), encoding="utf-8")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


def test_measures(raw, predict):
    experiment, [run] = plan(7, "2d", ["MeanTeacher"], [0], program="x")
    fold = finish(experiment, run, {"1": 1.0})
    measure_fold(raw, fold, [str(predict)])
    dice = json.loads((fold / "test" / "metrics.json").read_text(encoding="utf-8"))["metrics"]["dice"]
    assert dice["per_class"] == {"liver": pytest.approx((1 + 2 * 4 / 12) / 2), "spleen": pytest.approx(0.5)}
    assert sorted(path.name for path in (fold / "test").iterdir()) == ["metrics.json", "t1.png", "t2.png"]
    assert not (fold / ".test.partial").exists()


def test_nothing_is_measured_of_a_failed_prediction_or_of_learned_cases(raw, predict):
    experiment, [run, other] = plan(7, "2d", ["MeanTeacher"], [0, 1], program="x")
    fold = finish(experiment, run, {"1": 1.0})
    (predict.parent / "predictions" / "t2.png").unlink()
    with pytest.raises(InputError, match="t2"):
        measure_fold(raw, fold, [str(predict)])
    (predict.parent / "predictions").rename(predict.parent / "elsewhere")
    with pytest.raises(subprocess.CalledProcessError):
        measure_fold(raw, fold, [str(predict)])
    learned = finish(experiment, other, {"1": 1.0}, learned=("case1", "t2"))
    with pytest.raises(InputError, match=r"fold_1 has learned test cases: t2\. Train it anew\."):
        measure_fold(raw, learned, [str(predict)])
    assert not (fold / "test").exists() and not (learned / "test").exists()


def test_test_cases_are_wanted_before_anything_runs(dataset, tmp_path):
    (tmp_path / "raw" / "Dataset007_X" / "imagesTs").mkdir(parents=True)
    with pytest.raises(InputError, match=r"--test: .*imagesTs is missing or empty"):
        plan(7, "2d", ["MeanTeacher"], program="x", test=True)
    (tmp_path / "raw" / "Dataset007_X" / "imagesTs" / "t1_0000.png").touch()
    with pytest.raises(InputError, match=r"--test: .*labelsTs is missing or empty"):
        require_test_cases(7)


@pytest.fixture
def measuring(tmp_path, monkeypatch) -> Path:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "stand_in.py").write_text(MEASURE, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    monkeypatch.setattr(planning, "MODULE", "stand_in")
    return tmp_path / "modules"


def test_each_run_is_trained_then_tested(raw, trainings, measuring):
    experiment, runs = plan(7, "2d", ["MeanTeacher"], [0], [0, 5], program=str(trainings.program), test=True)
    trainings.know(experiment, runs)
    (measuring / "fail").touch()
    outcomes = run_local(experiment, runs, poll_seconds=0.02)
    assert [outcome.error for outcome in outcomes] == ["exit status 1: no such scan"] * 2
    assert [experiment.state(run) for run in runs] == ["test", "test"]
    (measuring / "fail").unlink()
    trainings.forget()
    assert [outcome.error for outcome in run_local(experiment, runs, poll_seconds=0.02)] == ["", ""]
    assert trainings.calls() == []  # neither was trained again
    assert run_local(experiment, runs, poll_seconds=0.02) == []
    fold = experiment.folder(runs[1])
    log = (fold / "nnunet_ssl_run.log").read_text(encoding="utf-8")
    assert f"\n7 {fold} -c 2d -f 0 -tr nnUNetTrainerMeanTeacher -p nnUNetPlans -device cuda\n" in log
    table = make_table(experiment, runs, {"liver": (1,), "spleen": (2,)})
    mean = {"mean": 0.25, "std": 0.0}
    expected = {"mean": mean, "per_class": {"liver": mean, "spleen": {"mean": None, "std": None}}}
    assert table["methods"]["MeanTeacher"]["test"] == {"dice": expected, "asd_mm": expected}
    assert markdown(table).count("| MeanTeacher | 0.250 ± 0.000 | 0.250 ± 0.000 |      - | 2 of 2 |") == 2
    assert "\n\nDice of the test cases, final checkpoints, mean ± standard deviation over runs\n\n" in markdown(table)


def test_without_the_option_nothing_of_it_is_there(dataset):
    experiment, [run] = plan(7, "2d", ["MeanTeacher"], [0], program="x")
    begin(experiment, run, "final")
    assert experiment.state(run) == "validate"
    finish(experiment, run, {"1": 1.0, "2": 1.0})
    assert experiment.state(run) == "finished"
    assert "test" not in make_table(experiment, [run], {"liver": (1,)})["methods"]["MeanTeacher"]
