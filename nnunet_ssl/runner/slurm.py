"""The same runs on a SLURM cluster through submitit, one job each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tqdm import tqdm

from nnunet_ssl.errors import InputError
from nnunet_ssl.results.training_log import RUN_LOG
from nnunet_ssl.runner.local import Outcome, interrupted_by_signals, run_local, say
from nnunet_ssl.runner.plan import Experiment, Run, require_own

if TYPE_CHECKING:
    import submitit


@dataclass(frozen=True)
class Job:
    """A run as submitit sends it to a node. What it still needs is found out there."""

    experiment: Experiment
    run: Run

    def __call__(self) -> Outcome:
        require_own(self.experiment, [self.run])  # folds may have changed while it waited
        outcomes = run_local(self.experiment, [self.run])
        return outcomes[0] if outcomes else Outcome(self.run, 0, self.experiment.folder(self.run) / RUN_LOG)

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Called by submitit when the job's time is over or it is preempted: the same again, which resumes."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def slurm_executor(experiment: Experiment, options: Sequence[str]) -> submitit.Executor:
    """submitit's executor for SLURM from `key=value` options: `time` in minutes, `partition`, `gpus` and others.

    Raises:
        InputError: submitit or SLURM is missing, an option is unknown, `time` is not given.
    """
    try:
        import submitit
    except ImportError:
        raise InputError("--executor slurm needs submitit: pip install 'nnunet-ssl[slurm]'.") from None
    if wrong := [option for option in options if not re.fullmatch(r"\w+=.+", option)]:
        raise InputError(f"--slurm {wrong[0]}: write key=value, such as --slurm partition=gpu.")
    pairs = (option.split("=", 1) for option in options)
    parameters = {key: int(value) if value.isdigit() else value for key, value in pairs}
    if not isinstance(parameters.get("time"), int):
        raise InputError("--executor slurm needs the time of a run in minutes: --slurm time=2880.")
    if "gpus" in parameters:
        parameters["gpus_per_node"] = parameters.pop("gpus")
    if experiment.device == "cuda" and not parameters.keys() & {"gpus_per_node", "gpus_per_task", "gres"}:
        parameters["gpus_per_node"] = 1
    try:
        executor = submitit.SlurmExecutor(experiment.results / experiment.dataset / "nnunet_ssl_slurm")
        executor.update_parameters(**{"job_name": "nnunet_ssl"} | parameters)
    except (RuntimeError, ValueError) as error:  # no SLURM here; unknown option, with those known
        raise InputError(f"--executor slurm: {' '.join(str(error).split())}") from None
    return executor


def run_submitted(
    experiment: Experiment, runs: Sequence[Run], executor: submitit.Executor, poll_seconds: float = 10
) -> list[Outcome]:
    """Like `run_local` with one job per run; waits for all. An interrupt cancels the jobs."""
    from submitit.helpers import as_completed

    waiting = [run for run in runs if experiment.state(run) != "finished"]
    if not waiting:
        return []
    with executor.batch():
        jobs = [executor.submit(Job(experiment, run)) for run in waiting]
    say(f"{len(jobs)} of {len(runs)} runs submitted, jobs {', '.join(job.job_id for job in jobs)}")
    outcomes = []
    with interrupted_by_signals(), tqdm(total=len(jobs), unit="run", disable=None) as bar:
        try:
            for job in as_completed(jobs, poll_frequency=poll_seconds):
                run = waiting[jobs.index(job)]
                fault = job.exception()  # the job's own end: node lost, cancelled, out of time
                log = experiment.folder(run) / RUN_LOG
                outcome = job.result() if fault is None else Outcome(run, 0, log, _last_words(fault))
                outcomes.append(outcome)
                say(f"{run}: {'failed' if outcome.error else 'finished'}")
                bar.update()
        except KeyboardInterrupt:
            for job in jobs:
                job.cancel(check=False)
            say("Interrupted: the jobs are cancelled. The same command goes on where they stood.")
            raise
    return outcomes


def _last_words(fault: BaseException) -> str:
    return next((line.strip() for line in reversed(str(fault).splitlines()) if line.strip()), type(fault).__name__)
