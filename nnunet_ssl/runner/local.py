"""The runs as subprocesses of this machine, one at a time on each GPU."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from tqdm import tqdm

from nnunet_ssl.data.origin import read_origin
from nnunet_ssl.locks import locked
from nnunet_ssl.machine import nnunets_variables
from nnunet_ssl.results.training_log import RUN_LOG
from nnunet_ssl.runner.plan import Experiment, Run
from nnunet_ssl.training.settings import VARIABLE

SHOW_EVERY, SAY_EVERY = 2, 600  # seconds between two looks at the epochs, and between two lines without a terminal
PATIENCE = 60  # seconds that a training has to end its step and write its checkpoint


@dataclass(frozen=True)
class Outcome:
    """How a run ended; `error` is empty if it is finished."""

    run: Run
    seconds: float
    log: Path
    error: str = ""


@dataclass(frozen=True)
class _Training:
    run: Run
    state: str  # that it started from
    gpu: str | None
    log: Path
    log_start: int
    process: subprocess.Popen
    started: float = field(default_factory=time.monotonic)


def run_local(
    experiment: Experiment, runs: Sequence[Run], gpus: Sequence[str] = (), poll_seconds: float = 0.2
) -> list[Outcome]:
    """Trains what is not finished, one run at a time on each of `gpus` (on one worker without).

    A run that fails does not stop the others. An interrupt, also SIGTERM and a closed terminal, ends the trainings
    with all their processes; the next call resumes them.

    Raises:
        InputError: another call trains one of them; nothing was started.
    """
    waiting = [run for run in runs if experiment.state(run) != "finished"]
    free: list[str | None] = list(gpus) or [None]
    variables = nnunets_variables(at_once=min(len(free), max(1, len(waiting))))
    active: list[_Training] = []
    outcomes = []
    shown = said = time.monotonic()
    for run in runs:
        if run not in waiting:
            say(f"{run}: finished before")
    with ExitStack() as locks, interrupted_by_signals(), tqdm(total=len(waiting), unit="run", disable=None) as bar:
        for run in waiting:  # each training has a lock of its own, but not on what is written beside it
            folder = experiment.folder(run)
            locks.enter_context(locked(folder.parent.with_name(f"{folder.parent.name}_{folder.name}")))
        try:
            while waiting or active:
                while waiting and free:
                    active.append(_start(experiment, waiting.pop(0), free.pop(0), variables))
                time.sleep(poll_seconds)
                if time.monotonic() >= shown + SHOW_EVERY:
                    shown = time.monotonic()
                    bar.set_postfix_str(told := "; ".join(filter(None, map(_progress, active))))
                    if bar.disable and told and shown >= said + SAY_EVERY:
                        said = shown
                        say(told)
                for training in [training for training in active if training.process.poll() is not None]:
                    active.remove(training)
                    free.append(training.gpu)
                    if (outcome := _finish(experiment, training)) is None:
                        waiting.insert(0, training.run)
                        continue
                    outcomes.append(outcome)
                    bar.update()
        except KeyboardInterrupt:
            say("Interrupted: ending the trainings. The same command goes on where they stood.")
            raise
        finally:
            _end([training.process for training in active])
    return outcomes


def progress_in_words(log: str, num_epochs: int) -> str:
    """`epoch 12 of 1000, 3:05:00 left` from what nnU-Net prints; "" before the first epoch and after the last.

    The time left is that of the epochs that are left, each as long as the mean of the last ten.

    Args:
        log: the end of the training's output.
    """
    epochs = re.findall(r": Epoch (\d+)\s*$", log, re.MULTILINE)
    if not epochs or "Training done." in log:
        return ""
    durations = [float(seconds) for seconds in re.findall(r"Epoch time: ([\d.]+) s", log)][-10:]
    words = f"epoch {int(epochs[-1]) + 1} of {num_epochs}"
    if not durations:
        return words
    left = (num_epochs - int(epochs[-1])) * sum(durations) / len(durations)
    return f"{words}, {timedelta(seconds=round(left))} left"


def _progress(training: _Training) -> str:
    origin = read_origin(training.log.parent)  # written when the training begins
    words = progress_in_words(_end_of_log(training), origin.num_epochs) if origin else ""
    return words and f"{training.run}: {words}"


def say(line: str) -> None:
    """Prints a line above the progress bar, at once also into a file."""
    tqdm.write(line)
    sys.stdout.flush()


def _start(experiment: Experiment, run: Run, gpu: str | None, variables: dict[str, str]) -> _Training:
    state, folder, command = experiment.state(run), experiment.folder(run), experiment.command(run)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / RUN_LOG
    with log.open("a", encoding="utf-8") as stream:
        stream.write(f"\n=== {time.strftime('%Y-%m-%d %H:%M:%S')} {VARIABLE}='{json.dumps(experiment.settings(run))}' ")
        stream.write(f"{' '.join(command)}\n")
        stream.flush()
        log_start = stream.tell()
        process = subprocess.Popen(
            command,
            env=variables | experiment.environment(run, gpu),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that the training and its workers can be ended together
        )
    say(f"{run}: started ({state}{'' if gpu is None else f', GPU {gpu}'}), log {log}")
    return _Training(run, state, gpu, log, log_start, process)


def _finish(experiment: Experiment, training: _Training) -> Outcome | None:
    """How the run ended; None if it is trained and its test cases are still to be predicted."""
    run, seconds, status = training.run, time.monotonic() - training.started, training.process.returncode
    error = ""
    if status:
        _signal_group(training.process, signal.SIGTERM)  # workers that outlived a killed training
        error = f"exit status {status}: {_last_line(training)}"
    elif training.state != "test" and experiment.state(run) == "test":
        return None
    elif experiment.state(run) != "finished":
        missing = "measures of the test cases" if training.state == "test" else "final checkpoint or validation"
        error = f"it ended without its {missing}: {_last_line(training)}"
    say(f"{run}: {'failed' if error else 'finished'} after {timedelta(seconds=round(seconds))}")
    return Outcome(run, seconds, training.log, error)


def _end(processes: Sequence[subprocess.Popen]) -> None:
    """Has each training write its checkpoint and end; what has not after a while, or at a second Ctrl-C, is killed.

    Its workers are not told: it waits for a batch of theirs, perhaps.
    """
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + PATIENCE
    for process in processes:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
            _signal_group(process, signal.SIGTERM)  # its workers; not multiprocessing's cleaner, which ignores it
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            _signal_group(process, signal.SIGKILL)
            process.wait()


def _signal_group(process: subprocess.Popen, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # all of it has ended
        os.killpg(process.pid, number)


@contextlib.contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Within the context SIGTERM and a closed terminal act as Ctrl-C, unless they are handled or ignored already."""

    def interrupt(number, frame):
        raise KeyboardInterrupt

    taken = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _end_of_log(training: _Training) -> str:
    with training.log.open("rb") as stream:
        stream.seek(max(training.log_start, training.log.stat().st_size - 2**16))
        return stream.read().decode("utf-8", errors="replace")


def _last_line(training: _Training) -> str:
    lines = [line.strip() for line in _end_of_log(training).splitlines()]
    return next((line for line in reversed(lines) if line), "(no output)")
