"""The cross-validation runner, with a stand-in for nnUNetv2_train in real processes."""

import json
import os
import signal
import stat
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from nnunet_ssl.data.splits import make_splits, read_splits
from nnunet_ssl.errors import InputError
from nnunet_ssl.runner import local
from nnunet_ssl.runner.local import run_local
from nnunet_ssl.runner.plan import Run, numbers, overrides_by_method, plan, words
from nnunet_ssl.runner.table import make_table, markdown, write_table

# Does as nnUNetv2_train in its folder; what else happens stands in behavior.json by "TRAINER/FOLD".
FAKE = """#!{python} -IS
import json, os, signal, subprocess, sys, time, uuid
from pathlib import Path

home = Path(__file__).parent
dataset, configuration, fold = sys.argv[1:4]
options = dict(zip(sys.argv[4::2], sys.argv[5::2]))
trainer, plans = options["-tr"], options["-p"]
behavior = json.loads((home / "behavior.json").read_text()).get(f"{{trainer}}/{{fold}}", "")
call = {{
    "trainer": trainer, "fold": int(fold), "arguments": sys.argv[1:], "start": time.time(), "pid": os.getpid(),
    **{{name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "nnUNet_results", "nnUNet_ssl_config")}},
}}
record = home / "calls" / f"{{uuid.uuid4().hex}}.json"
record.write_text(json.dumps(call))
if behavior == "fail":
    print("Epoch 0\\nRuntimeError: out of memory\\n")
    sys.exit(3)
if behavior == "do nothing":
    sys.exit(0)
folder = Path(os.environ["nnUNet_results"]) / "Dataset007_X" / f"{{trainer}}__{{plans}}__{{configuration}}"
folder = folder / f"fold_{{fold}}"
(folder / "validation").mkdir(parents=True, exist_ok=True)
if behavior in ("hang", "be deaf", "leave a worker"):
    if behavior == "be deaf":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker = subprocess.Popen([sys.executable, "-IS", "-c", "import time; time.sleep(60)"])
    (folder / "checkpoint_latest.pth").touch()
    record.write_text(json.dumps(call | {{"worker": worker.pid}}))
    if behavior == "leave a worker":
        os._exit(1)
    time.sleep(60)
time.sleep(0.2)
dice = 0.5 + 0.1 * int(fold)
(folder / "checkpoint_final.pth").touch()
summary = {{"mean": {{"1": {{"Dice": dice}}, "2": {{"Dice": 1.0}}}}, "foreground_mean": {{"Dice": (dice + 1) / 2}}}}
(folder / "validation" / "summary.json").write_text(json.dumps(summary))
record.write_text(json.dumps(call | {{"end": time.time()}}))
"""


@pytest.fixture
def dataset(tmp_path, monkeypatch) -> Path:
    """A preprocessed dataset of ten empty files, as far as the runner looks into it."""
    for kind in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{kind}", str(tmp_path / kind))
        (tmp_path / kind).mkdir()
    monkeypatch.delenv("nnUNet_ssl_config", raising=False)
    base = tmp_path / "preprocessed" / "Dataset007_X"
    (base / "gt_segmentations").mkdir(parents=True)
    labels = {"background": 0, "liver": 1, "spleen": 2}
    (base / "dataset.json").write_text(json.dumps({"file_ending": ".png", "labels": labels}))
    for i in range(10):
        (base / "gt_segmentations" / f"case{i}.png").touch()
    (base / "nnUNetPlans.json").write_text(json.dumps({"plans_name": "nnUNetPlans", "configurations": {"2d": {}}}))
    return base


class Trainings:
    """The stand-in and what it was called with."""

    def __init__(self, home: Path):
        self.home = home
        (home / "calls").mkdir(parents=True)
        self.program = home / "nnUNetv2_train"
        self.program.write_text(FAKE.format(python=sys.executable))
        self.program.chmod(self.program.stat().st_mode | stat.S_IXUSR)
        self.behave()

    def behave(self, **by_run: str) -> None:
        (self.home / "behavior.json").write_text(
            json.dumps({f"nnUNetTrainer{run[:-1]}/{run[-1]}": what for run, what in by_run.items()})
        )

    def calls(self) -> list[dict]:
        found = [json.loads(file.read_text()) for file in (self.home / "calls").iterdir()]
        return sorted(found, key=lambda call: call["start"])

    def forget(self) -> None:
        for file in (self.home / "calls").iterdir():
            file.unlink()


@pytest.fixture
def trainings(tmp_path) -> Trainings:
    return Trainings(tmp_path / "bin")


def finish(folder: Path, dice: dict[str, float]) -> None:
    (folder / "validation").mkdir(parents=True)
    (folder / "checkpoint_final.pth").touch()
    summary = {"mean": {key: {"Dice": value, "IoU": 0.0} for key, value in dice.items()}}
    (folder / "validation" / "summary.json").write_text(json.dumps(summary))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


# ---------------------------------------------------------------- planning


def test_options_are_split():
    assert words(["MeanTeacher UAMT", "DHC,CPS", "DHC"]) == ["MeanTeacher", "UAMT", "DHC", "CPS"]
    assert words(None) == words([" "]) == []
    assert numbers(["0,1", "3 1"], "--folds") == [0, 1, 3]
    with pytest.raises(InputError, match="--folds all -1"):
        numbers(["0,all -1"], "--folds")


def test_grid(dataset):
    experiment, runs = plan(7, "2d", ["nnUNetTrainerMeanTeacher"], baseline=True, program="x")
    assert read_splits(dataset / "splits_final.json") == make_splits([f"case{i}" for i in range(10)])
    assert runs == [Run(m, fold) for fold in range(5) for m in ("Supervised", "MeanTeacher")]
    results = Path(os.environ["nnUNet_results"])
    assert experiment.folder(runs[1]) == results / "Dataset007_X" / "nnUNetTrainerMeanTeacher__nnUNetPlans__2d/fold_0"
    experiment, runs = plan(7, "2d", ["UAMT"], [3], [4, 0], program="x")
    assert runs == [Run("UAMT", 3, 4), Run("UAMT", 3, 0)]
    assert experiment.root(runs[0]) == results / "seed_4"
    assert experiment.settings(runs[0]) == {"seed": 4}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"methods": []}, "Nothing to run"),
        ({"methods": ["MeanTaecher"]}, "no trainer nnUNetTrainerMeanTaecher"),
        ({"methods": ["_5epochs"]}, "nnUNetTrainer_5epochs .* takes no overrides"),
        ({"configuration": "3d_fullres"}, "no configuration 3d_fullres, but 2d"),
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
    (dataset / "copied.json").write_text((dataset / "nnUNetPlans.json").read_text())
    with pytest.raises(InputError, match=words):
        plan(**{"dataset_id": 7, "configuration": "2d", "methods": ["MeanTeacher"], "program": "x"} | arguments)


def test_each_trainer_gets_the_overrides_that_it_knows(tmp_path):
    file = tmp_path / "overrides.yaml"
    file.write_text("num_epochs: 3\nweight: 0.5\npasses: 2\npreset: published\n")
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
        (folder / name.replace("cut off", "summary.json")).write_text(text or '{"mean": {')
    assert experiment.state(run) == state
    if flags is not None:
        common = ["train", "7", "2d", "2", "-tr", "nnUNetTrainerMeanTeacher", "-p", "nnUNetPlans", "-device", "cpu"]
        assert experiment.command(run) == common + flags


# ---------------------------------------------------------------- table


def test_table_numbers(dataset):
    experiment, runs = plan(7, "2d", ["UAMT", "MeanTeacher"], [0, 1, 2], baseline=True, program="x")
    nan = float("nan")
    for run, liver, spleen in [
        (Run("Supervised", 0), 0.6, 0.8),
        (Run("Supervised", 1), 0.8, nan),
        (Run("Supervised", 2), 0.7, 1.0),
        (Run("MeanTeacher", 0), 0.9, 0.5),
    ]:
        finish(experiment.folder(run), {"1": liver, "2": spleen})
    table = make_table(experiment, runs, {"liver": (1,), "spleen": (2,)})
    assert list(table["methods"]) == ["Supervised", "UAMT", "MeanTeacher"]
    supervised = table["methods"]["Supervised"]
    assert supervised["finished"] == supervised["runs"] == 3
    assert supervised["per_class"]["liver"] == {"mean": pytest.approx(0.7), "std": pytest.approx(0.1)}
    assert supervised["per_class"]["spleen"] == {"mean": pytest.approx(0.9), "std": pytest.approx(0.02**0.5)}
    # of the runs' means 0.7, 0.8 (spleen left out), 0.85
    assert supervised["mean"] == {"mean": pytest.approx(2.35 / 3), "std": pytest.approx((0.0175 / 3) ** 0.5)}
    assert table["methods"]["MeanTeacher"]["mean"] == {"mean": pytest.approx(0.7), "std": None}
    assert table["methods"]["UAMT"]["mean"] == {"mean": None, "std": None}
    assert [run["dice"]["per_class"]["spleen"] for run in table["runs"]] == [0.8, 0.5, None, 1.0]
    assert markdown(table) == (
        "Dataset007_X 2d nnUNetPlans, folds 0 1 2: Dice of nnU-Net's validation, "
        "mean ± standard deviation over runs\n\n"
        "| method      |          mean |         liver |        spleen |   runs |\n"
        "| ----------- | ------------: | ------------: | ------------: | -----: |\n"
        "| Supervised  | 0.783 ± 0.076 | 0.700 ± 0.100 | 0.900 ± 0.141 | 3 of 3 |\n"
        "| UAMT        |             - |             - |             - | 0 of 3 |\n"
        "| MeanTeacher |         0.700 |         0.900 |         0.500 | 1 of 3 |\n"
    )


def test_table_over_seeds_and_regions(dataset):
    labels = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    (dataset / "dataset.json").write_text(json.dumps({"file_ending": ".png", "labels": labels}))
    experiment, runs = plan(7, "2d", ["MeanTeacher"], [0, 1], [0, 1], program="x")
    for i, run in enumerate(runs):
        finish(experiment.folder(run), {"(1, 2)": 0.2 * i, "(2,)": 1.0})
    text, file = write_table(experiment, runs)
    assert file == experiment.results / "Dataset007_X" / "nnunet_ssl_2d.md"
    assert file.read_text() == text and "folds 0 1, seeds 0 1" in text and "4 of 4" in text
    table = json.loads(file.with_suffix(".json").read_text())
    whole = {"mean": pytest.approx(0.3), "std": pytest.approx((0.2 / 3) ** 0.5)}  # of 0, 0.2, 0.4, 0.6
    assert table["methods"]["MeanTeacher"]["per_class"] == {"whole": whole, "core": {"mean": 1.0, "std": 0.0}}
    assert sorted(entry.name for entry in file.parent.iterdir()) == ["nnunet_ssl_2d.json", "nnunet_ssl_2d.md"]


# ---------------------------------------------------------------- running


def test_skips_resumes_and_validates(dataset, trainings):
    experiment, runs = plan(7, "2d", ["MeanTeacher"], config="{num_epochs: 2}", program=str(trainings.program))
    finish(experiment.folder(runs[0]), {"1": 1.0})
    experiment.folder(runs[1]).mkdir()
    (experiment.folder(runs[1]) / "checkpoint_best.pth").touch()
    experiment.folder(runs[2]).mkdir()
    (experiment.folder(runs[2]) / "checkpoint_final.pth").touch()
    outcomes = run_local(experiment, runs, poll_seconds=0.02)
    assert [(outcome.run, outcome.error) for outcome in outcomes] == [(run, "") for run in runs[1:]]
    calls = trainings.calls()
    assert [(call["fold"], call["arguments"][9:]) for call in calls] == [(1, ["--c"]), (2, ["--val"]), (3, []), (4, [])]
    assert all(json.loads(call["nnUNet_ssl_config"]) == {"num_epochs": 2} for call in calls)
    assert all(before["end"] <= after["start"] for before, after in zip(calls, calls[1:], strict=False))
    trainings.forget()
    assert run_local(experiment, runs, poll_seconds=0.02) == trainings.calls() == []


def test_one_failure_does_not_stop_the_others(dataset, trainings):
    experiment, runs = plan(7, "2d", ["MeanTeacher", "UAMT"], [0, 1], program=str(trainings.program))
    trainings.behave(MeanTeacher0="fail", UAMT1="do nothing")
    outcomes = {str(outcome.run): outcome for outcome in run_local(experiment, runs, poll_seconds=0.02)}
    assert {name: outcome.error for name, outcome in outcomes.items()} == {
        "MeanTeacher fold 0": "exit status 3: RuntimeError: out of memory",
        "UAMT fold 0": "",
        "MeanTeacher fold 1": "",
        "UAMT fold 1": "it ended without its final checkpoint or validation: (no output)",
    }
    log = outcomes["MeanTeacher fold 0"].log
    assert log == experiment.folder(runs[0]) / "nnunet_ssl_run.log"
    assert "Epoch 0\nRuntimeError" in log.read_text() and "-tr nnUNetTrainerMeanTeacher" in log.read_text()


def test_one_run_at_a_time_on_each_gpu(dataset, trainings):
    experiment, runs = plan(7, "2d", ["MeanTeacher", "UAMT"], [0, 1, 2], program=str(trainings.program))
    run_local(experiment, runs, ["0", "GPU-b"], poll_seconds=0.02)
    calls = trainings.calls()
    assert len(calls) == 6
    by_gpu = {gpu: [call for call in calls if call["CUDA_VISIBLE_DEVICES"] == gpu] for gpu in ("0", "GPU-b")}
    assert sum(map(len, by_gpu.values())) == 6 and all(by_gpu.values())
    for mine in by_gpu.values():
        assert all(before["end"] <= after["start"] for before, after in zip(mine, mine[1:], strict=False))
    assert any(a["start"] < b["end"] and b["start"] < a["end"] for a in by_gpu["0"] for b in by_gpu["GPU-b"])


def test_seeds_do_not_overwrite_each_other(dataset, trainings):
    experiment, runs = plan(
        7, "2d", ["MeanTeacher"], [0], [0, 5], True, config="{num_epochs: 2, weight: 1}", program=str(trainings.program)
    )
    run_local(experiment, runs, poll_seconds=0.02)
    found = {
        (Path(call["nnUNet_results"]).name, call["trainer"]): json.loads(call["nnUNet_ssl_config"])
        for call in trainings.calls()
    }
    assert found == {
        (f"seed_{seed}", f"nnUNetTrainer{method}"): {"num_epochs": 2, "seed": seed} | own
        for seed in (0, 5)
        for method, own in (("Supervised", {}), ("MeanTeacher", {"weight": 1}))
    }
    assert all(experiment.state(run) == "finished" for run in runs)


def test_runs_of_other_overrides_are_no_results_of_this_grid(dataset, trainings):
    def grid(config):
        return plan(7, "2d", ["MeanTeacher"], [0, 1], config=config, program=str(trainings.program))

    trainings.behave(MeanTeacher1="fail")
    run_local(*grid("{num_epochs: 1}"), poll_seconds=0.02)
    grid("{num_epochs: 1}")
    with pytest.raises(InputError, match=r'fold_0 was trained with {"num_epochs": 1}, not with {"num_epochs": 2}'):
        grid("{num_epochs: 2}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_ends_all_processes(dataset, trainings, number):
    experiment, runs = plan(7, "2d", ["MeanTeacher"], [0, 1], program=str(trainings.program))
    interrupt_when(trainings, {"hang": 0, "be deaf": 1}, number)
    before = signal.getsignal(number)
    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(local, "PATIENCE", 1)
        run_local(experiment, runs, ["0", "1"], poll_seconds=0.02)
    assert signal.getsignal(number) is before
    pids = [pid for call in trainings.calls() for pid in (call["pid"], call["worker"])]
    assert len(pids) == 4
    wait_for(lambda: not any(map(alive, pids)))
    trainings.forget()
    trainings.behave()
    assert [outcome.error for outcome in run_local(experiment, runs, poll_seconds=0.02)] == ["", ""]
    assert ["--c" in call["arguments"] for call in trainings.calls()] == [True, True]


def interrupt_when(trainings: Trainings, behavior: dict[str, int], number: int) -> None:
    """Sends this process a signal as soon as all trainings hang with their workers."""
    trainings.behave(**{f"MeanTeacher{fold}": what for what, fold in behavior.items()})

    def send():
        wait_for(lambda: len(list((trainings.home / "calls").iterdir())) == len(behavior))
        wait_for(lambda: all("worker" in file.read_text() for file in (trainings.home / "calls").iterdir()))
        time.sleep(0.2)
        os.kill(os.getpid(), number)

    threading.Thread(target=send, daemon=True).start()


def wait_for(condition, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_workers_of_a_killed_training_are_ended(dataset, trainings):
    experiment, runs = plan(7, "2d", ["MeanTeacher"], [0], program=str(trainings.program))
    trainings.behave(MeanTeacher0="leave a worker")
    [outcome] = run_local(experiment, runs, poll_seconds=0.02)
    assert outcome.error.startswith("exit status 1")
    wait_for(lambda: not alive(trainings.calls()[0]["worker"]))


# ---------------------------------------------------------------- command


@pytest.fixture
def command(dataset, trainings, monkeypatch):
    from nnunet_ssl.cli.run import run

    monkeypatch.setattr("nnunet_ssl.runner.plan.training_program", lambda: str(trainings.program))
    app = typer.Typer()
    app.command()(run)
    return lambda *arguments: CliRunner().invoke(app, ["-d", "7", "-c", "2d", "--device", "cpu", *arguments])


def test_command(command, trainings):
    trainings.behave(UAMT1="fail")
    grid = ("--methods", "MeanTeacher UAMT", "--folds", "0,1", "--baseline", "--config", "{num_epochs: 2}")
    result = command(*grid)
    assert result.exit_code == 1
    assert "1 of 6 runs failed" in result.output and "RuntimeError: out of memory" in result.output
    assert str(Path("fold_1") / "nnunet_ssl_run.log") in result.output
    assert "| UAMT        |         0.750 |         0.500 |         1.000 | 1 of 2 |" in result.output
    trainings.forget()
    trainings.behave()
    result = command(*grid)
    assert result.exit_code == 0, result.output
    assert [(call["trainer"], call["fold"]) for call in trainings.calls()] == [("nnUNetTrainerUAMT", 1)]
    assert "MeanTeacher fold 0: finished before" in result.output
    assert "| UAMT        | 0.775 ± 0.035 | 0.550 ± 0.071 | 1.000 ± 0.000 | 2 of 2 |" in result.output


@pytest.mark.parametrize(
    ("options", "words"),
    [(["--gpus", "0"], "--gpus is for"), (["--slurm", "time=1"], "--slurm is for"), (["--executor", "slurm"], "time=")],
)
def test_options_that_do_not_fit(command, options, words):
    if "--executor" in options:
        pytest.importorskip("submitit")
    result = command("--methods", "MeanTeacher", *options)
    assert isinstance(result.exception, InputError) and words in str(result.exception)


# ---------------------------------------------------------------- cluster


def test_submitted_in_this_process(dataset, trainings, tmp_path):
    submitit = pytest.importorskip("submitit")
    from nnunet_ssl.runner.slurm import Job, run_submitted

    experiment, runs = plan(7, "2d", ["MeanTeacher"], [0, 1, 2], program=str(trainings.program))
    finish(experiment.folder(runs[0]), {"1": 1.0})
    trainings.behave(MeanTeacher1="fail")
    outcomes = run_submitted(experiment, runs, submitit.DebugExecutor(tmp_path / "jobs"), poll_seconds=0.02)
    assert [(outcome.run.fold, outcome.error[:13]) for outcome in outcomes] == [(1, "exit status 3"), (2, "")]
    assert run_submitted(experiment, runs[:1], submitit.DebugExecutor(tmp_path / "jobs")) == []
    assert Job(experiment, runs[0])().error == ""  # finished by the time that the job starts
    assert len(trainings.calls()) == 2
    again = Job(experiment, runs[1]).checkpoint()  # what submitit sends when the time is over
    assert again.function == Job(experiment, runs[1])


@pytest.mark.slow
def test_submitted_to_other_processes(dataset, trainings, tmp_path):
    submitit = pytest.importorskip("submitit")
    from nnunet_ssl.runner.slurm import run_submitted

    experiment, runs = plan(7, "2d", ["MeanTeacher"], [0], [3], program=str(trainings.program))
    executor = submitit.LocalExecutor(tmp_path / "jobs")
    executor.update_parameters(timeout_min=5)
    [outcome] = run_submitted(experiment, runs, executor, poll_seconds=0.1)
    assert outcome.error == "" and experiment.state(runs[0]) == "finished"
    assert trainings.calls()[0]["pid"] != os.getpid()
    assert json.loads(trainings.calls()[0]["nnUNet_ssl_config"]) == {"seed": 3}


def test_slurm_options(dataset, trainings, tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    from nnunet_ssl.runner.slurm import slurm_executor

    experiment, runs = plan(7, "2d", ["MeanTeacher"], program="x")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="srun"):
        slurm_executor(experiment, ["time=60"])
    for name in ("srun", "sbatch"):
        (tmp_path / "bin" / name).write_text("#!/bin/sh\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    parameters = slurm_executor(experiment, ["time=60", "partition=gpu", "gpus=2", "mem=32GB"]).parameters
    assert parameters == {
        "time": 60, "partition": "gpu", "gpus_per_node": 2, "mem": "32GB", "job_name": "nnunet_ssl"
    }  # fmt: skip
    assert slurm_executor(experiment, ["time=60"]).parameters["gpus_per_node"] == 1
    assert "gpus_per_node" not in slurm_executor(replace(experiment, device="cpu"), ["time=60"]).parameters
    for options, text in ([["partition=gpu"], "time="], [["time"], "key=value"], [["time=1", "color=red"], "color"]):
        with pytest.raises(InputError, match=text):
            slurm_executor(experiment, options)
