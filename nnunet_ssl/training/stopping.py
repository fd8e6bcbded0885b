"""Ctrl-C and SIGTERM end a training between two steps, so that none is lost."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from nnunet_ssl.distributed import max_over_ranks, world_size
from nnunet_ssl.errors import InputError
from nnunet_ssl.training.workers import Workers

SIGNALS = (signal.SIGINT, signal.SIGTERM)
AGREE_EVERY = 10  # steps; several ranks must stop at the same one


class Stop:
    """A stop that Ctrl-C or SIGTERM asks for; within the context their arrival is only noted.

    A second Ctrl-C acts as ever. A second SIGTERM does nothing: schedulers and parents that end a whole group of
    processes send it more than once, and would cut off the checkpoint.

    Attributes:
        number: the signal that came, 0 if none did.
    """

    def __init__(self):
        self.number = 0
        self._interrupts = self._looks = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        self._process = os.getpid()
        if threading.current_thread() is threading.main_thread():  # Python handles signals nowhere else
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # a job in the background ignores Ctrl-C
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame) -> None:
        if os.getpid() != self._process:
            self._in_worker(number)
            return
        self.number = self.number or number
        self._interrupts += number == signal.SIGINT
        if self._interrupts > 1 and number == signal.SIGINT:
            raise KeyboardInterrupt

    @staticmethod
    def _in_worker(number: int) -> None:
        """Ctrl-C reaches a forked loader too, but is the training's to answer; SIGTERM is how loaders are ended."""
        if number == signal.SIGTERM:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def agreed(self, device: torch.device) -> int:
        """The signal to stop for at this step, 0 for none. All ranks ask before each step and get the same answer."""
        if world_size() == 1:
            return self.number
        self._looks += 1
        if self._looks % AGREE_EVERY:
            return 0
        return int(max_over_ranks(torch.tensor(self.number, device=device)))


@dataclass
class StepDone:
    """In place of a batch: the step that a stopped run made with it already."""

    outputs: dict[str, Any]


@dataclass
class Steps:
    """Stands between nnU-Net's loop and a loader with its step, and keeps what the steps of the epoch returned.

    nnU-Net calls `step(next(loader))` and collects the outputs. Here the outputs of steps that a stopped run made come
    first, so that the loop ends up with all of the epoch and makes only those that are missing.

    Args:
        loader: gives batches.
        run: the step itself.
        before_each: called before each batch, where nothing is half done; may end the training.
        done_before: outputs of a stopped run; those handed out are removed.
    """

    loader: Iterator[dict]
    run: Callable[[dict], dict[str, Any]]
    before_each: Callable[[], None]
    done_before: list[dict[str, Any]]
    outputs: list[dict[str, Any]] = field(default_factory=list)

    def __next__(self) -> dict | StepDone:
        if self.done_before:
            return StepDone(self.done_before.pop(0))
        self.before_each()
        try:
            return next(self.loader)
        except (RuntimeError, InputError):  # a worker is gone
            if world_size() == 1:  # several ranks cannot agree outside of their turn
                time.sleep(1)  # a SIGTERM for all processes may have reached the worker first
                self.before_each()
            raise

    def end_workers(self) -> None:
        """Ends the loader's processes, if it has any: a stopped run may not have the seconds of an orderly end."""
        if isinstance(self.loader, Workers):
            self.loader.end_at_once()

    def step(self, batch: dict | StepDone) -> dict[str, Any]:
        """What `run` returns, or returned in the stopped run."""
        outputs = batch.outputs if isinstance(batch, StepDone) else self.run(batch)
        self.outputs.append(outputs)
        return outputs
