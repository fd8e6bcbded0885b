"""The grid through submitit."""

import json
import os
from dataclasses import replace

import pytest
from trainings import finish

from nnunet_ssl.errors import InputError
from nnunet_ssl.runner.plan import plan


def test_submitted_in_this_process(dataset, trainings, tmp_path):
    submitit = pytest.importorskip("submitit")
    from nnunet_ssl.runner.slurm import Job, run_submitted

    experiment, runs = plan(7, "2d", ["MeanTeacher"], [0, 1, 2], program=str(trainings.program))
    finish(experiment, runs[0], {"1": 1.0})
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
        (tmp_path / "bin" / name).write_text("#!/bin/sh\n", encoding="utf-8")
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
