"""The grid in real processes: skips, resumes, failures, GPUs, interrupts; and the command."""

import json
import signal
from pathlib import Path

import pytest
import typer
from trainings import alive, begin, finish, interrupt_when, wait_for
from typer.testing import CliRunner
from workbench import another_process_holds

from nnunet_ssl import machine
from nnunet_ssl.data.splits import write_splits
from nnunet_ssl.errors import InputError
from nnunet_ssl.runner import local
from nnunet_ssl.runner.local import run_local
from nnunet_ssl.runner.plan import in_lines, plan


def test_skips_resumes_and_validates(dataset, trainings):
    experiment, runs = plan(7, "2d", ["MeanTeacher"], config="{num_epochs: 2}", program=str(trainings.program))
    finish(experiment, runs[0], {"1": 1.0})
    begin(experiment, runs[1], "best")
    begin(experiment, runs[2], "final")
    outcomes = run_local(experiment, runs, poll_seconds=0.02)
    assert [(outcome.run, outcome.error) for outcome in outcomes] == [(run, "") for run in runs[1:]]
    calls = trainings.calls()
    flags = [["--c", "--npz"], ["--val", "--npz"], ["--npz"], ["--npz"]]
    assert [(call["fold"], call["arguments"][9:]) for call in calls] == list(zip((1, 2, 3, 4), flags, strict=True))
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
    assert "Epoch 0\nRuntimeError" in log.read_text(
        encoding="utf-8"
    ) and "-tr nnUNetTrainerMeanTeacher" in log.read_text(encoding="utf-8")


def test_a_second_grid_that_shares_a_run_is_refused_before_it_starts_one(dataset, trainings):
    experiment, runs = plan(7, "2d", ["MeanTeacher", "UAMT"], [0, 1], program=str(trainings.program))
    place = experiment.folder(runs[2]).parents[1] / "nnUNetTrainerMeanTeacher__nnUNetPlans__2d_fold_1"
    with another_process_holds(place) as other:
        with pytest.raises(InputError, match=f"nnUNetTrainerMeanTeacher__.*_fold_1 is in use: process {other} on "):
            run_local(experiment, runs, poll_seconds=0.02)
        assert trainings.calls() == [] and not experiment.folder(runs[0]).exists()
        assert [outcome.error for outcome in run_local(experiment, runs[:2], poll_seconds=0.02)] == ["", ""]
    assert len(run_local(experiment, runs, poll_seconds=0.02)) == 2


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
        7,
        "2d",
        ["MeanTeacher"],
        [0],
        [0, 5],
        "Supervised",
        config="{num_epochs: 2, weight: 1}",
        program=str(trainings.program),
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


@pytest.fixture
def as_in_a_terminal():
    """A background job begins with Ctrl-C or a closed terminal ignored; these tests are about a foreground one."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_ends_all_processes(dataset, trainings, as_in_a_terminal, number):
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


def test_workers_of_a_killed_training_are_ended(dataset, trainings):
    experiment, runs = plan(7, "2d", ["MeanTeacher"], [0], program=str(trainings.program))
    trainings.behave(MeanTeacher0="leave a worker")
    [outcome] = run_local(experiment, runs, poll_seconds=0.02)
    assert outcome.error.startswith("exit status 1")
    wait_for(lambda: not alive(trainings.calls()[0]["worker"]))


@pytest.fixture
def command(dataset, trainings, monkeypatch):
    from nnunet_ssl.cli.run import run

    monkeypatch.setattr("nnunet_ssl.runner.plan.find_command", lambda name: str(trainings.program))
    app = typer.Typer()
    app.command()(run)
    return lambda *arguments: CliRunner().invoke(app, ["-d", "7", "-c", "2d", "--device", "cpu", *arguments])


def test_command(command, trainings):
    trainings.behave(UAMT1="fail")
    grid = (
        "--methods",
        "MeanTeacher UAMT",
        "--folds",
        "0,1",
        "--baseline",
        "Supervised",
        "--config",
        "{num_epochs: 2}",
    )
    trainings.know(*plan(7, "2d", ["MeanTeacher", "UAMT"], [0, 1], baseline="Supervised", config="{num_epochs: 2}"))
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


def test_command_refuses_before_anything_starts(command, trainings):
    """Folds are hidden after a training, and half of the grid is new: nothing of it begins."""
    grid = ("--methods", "MeanTeacher", "--folds", "0,1", "--config", "{num_epochs: 2}")
    write_splits(7, 4, 12345, 5, force=False)
    experiment, runs = plan(7, "2d", ["MeanTeacher"], [0, 1], config="{num_epochs: 2}")
    finish(experiment, runs[0], {"1": 1.0})
    write_splits(7, 2, 12345, 5, force=True)
    result = command(*grid)
    assert isinstance(result.exception, InputError) and "finished before" not in result.output
    assert "1 of 2 runs" in str(result.exception) and "2 cases are now hidden" in str(result.exception)
    assert trainings.calls() == [] and not list(experiment.results.rglob("nnunet_ssl_2d.*"))


def test_command_tells_of_failures_where_there_is_no_table(command, trainings):
    trainings.behave(MeanTeacher1="fail")  # and fold 0 leaves no origin, as trainers that are not ours
    result = command("--methods", "MeanTeacher", "--folds", "0,1")
    assert isinstance(result.exception, InputError) and "its origin is unknown" in str(result.exception)
    assert "1 of 2 runs failed" in result.output and "RuntimeError: out of memory" in result.output


@pytest.mark.parametrize(
    ("options", "words"),
    [(["--gpus", "0"], "--gpus is for"), (["--slurm", "time=1"], "--slurm is for"), (["--executor", "slurm"], "time=")],
)
def test_options_that_do_not_fit(command, options, words):
    if "--executor" in options:
        pytest.importorskip("submitit")
    result = command("--methods", "MeanTeacher", *options)
    assert isinstance(result.exception, InputError) and words in str(result.exception)


def test_epochs_and_time_left_are_read_off_the_log():
    log = (
        "2026-01-01 10:00:00.0: Epoch 4\nEpoch time: 20.0 s\n2026: Epoch time: 40.0 s\n2026-01-01 10:00:00.0: Epoch 5\n"
    )
    assert local.progress_in_words(log, 10) == "epoch 6 of 10, 0:02:30 left"  # five epochs of 30 s
    assert local.progress_in_words("2026-01-01 10:00:00.0: Epoch 0\n", 10) == "epoch 1 of 10"
    assert local.progress_in_words("Epoch time\n", 10) == ""
    assert local.progress_in_words(log + "2026: Training done.\n", 10) == ""


def test_a_dry_run_starts_and_writes_nothing(dataset, trainings):
    before = sorted(dataset.rglob("*"))
    experiment, runs = plan(7, "2d", ["bcp"], [0, 1], program=str(trainings.program), dry=True)
    text = in_lines(experiment, runs)
    assert text.splitlines()[0] == "BCP fold 0: to train"
    assert text.splitlines()[1].strip() == str(experiment.folder(runs[0]))
    assert text.endswith("2 of 2 runs are left; nothing was started.")
    assert sorted(dataset.rglob("*")) == before and trainings.calls() == []
    write_splits(7, None, 12345, 5, force=False)
    finish(experiment, runs[0], {"1": 1.0})
    begin(experiment, runs[1], "latest")
    lines = in_lines(experiment, runs).splitlines()
    assert lines[0] == "BCP fold 0: finished, nothing to do"
    assert lines[2] == "BCP fold 1: to go on where it was cut off"
    assert lines[-1].startswith("1 of 2 runs are left")


def test_a_training_is_told_how_many_processes_unless_the_user_has_said(dataset, trainings, monkeypatch):
    experiment, runs = plan(7, "2d", ["MeanTeacher"], [0], program=str(trainings.program))
    monkeypatch.delenv("nnUNet_def_n_proc", raising=False)
    monkeypatch.setenv("nnUNet_nps", "6")
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda process: range(1))
    run_local(experiment, runs, poll_seconds=0.02)
    (call,) = trainings.calls()
    assert (call["nnUNet_def_n_proc"], call["nnUNet_nps"]) == ("1", "6")
