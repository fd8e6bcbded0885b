"""Work on many cases in several processes: one way to hand it out, and one wording for what can go wrong."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import Any, TypeVar

from nnunet_ssl.errors import InputError, machine_fault

Key = TypeVar("Key")
KEPT = "and run the same command again: finished cases are kept."


class Pool:
    """Worker processes, within its context; they end with this process, however that ends.

    Args:
        processes: 0 works in this process.
        remedy: ends a sentence that begins with what to do ("Make room") and says what becomes of finished cases.
        set_up: called first in each worker.
    """

    def __init__(self, processes: int, remedy: str = KEPT, set_up: Callable[[], Any] | None = None):
        self.processes = processes
        self.remedy = remedy
        self.executor = None
        if processes:
            self.executor = ProcessPoolExecutor(
                processes, mp_context=get_context("spawn"), initializer=_begin_worker, initargs=(set_up,)
            )

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_) -> None:
        if self.executor is not None:
            self.executor.shutdown(cancel_futures=True)

    def run(self, function: Callable[..., Any], work: Iterable[tuple[Key, tuple]]) -> Iterator[tuple[Key, Any]]:
        """Yields `(key, function(*arguments))` for each `(key, arguments)` of the work, as they finish.

        An `InputError` of the function is a fault of its case: it takes the result's place, so that the caller can tell
        of all of them at once. So does a want of memory that the worker outlives. All else ends the work.

        Args:
            work: taken one by one; one item beyond those in work waits in memory.

        Raises:
            InputError: a worker was killed, or the machine lacks space, a right or a folder; names the file.
            RuntimeError: any other exception of the function, which is its cause; names the case.
        """
        if self.executor is None:
            for key, arguments in work:
                try:
                    result = function(*arguments)
                except Exception as error:  # of any kind: it is sorted, and none is dropped
                    result = self._sorted(key, error)
                yield key, result
            return
        waiting: dict[Future, Key] = {}
        for key, arguments in work:
            try:
                waiting[self.executor.submit(function, *arguments)] = key
            except BrokenProcessPool as error:
                raise killed(self.processes, self.remedy) from error
            if len(waiting) > self.processes:
                yield from self._finished(waiting)
        while waiting:
            yield from self._finished(waiting)

    def _finished(self, waiting: dict[Future, Key]) -> Iterator[tuple[Key, Any]]:
        done, _ = wait(waiting, return_when=FIRST_COMPLETED)
        for future in [future for future in waiting if future in done]:  # in the order of the work
            key, error = waiting.pop(future), future.exception()
            yield key, future.result() if error is None else self._sorted(key, error)

    def _sorted(self, key: Any, error: BaseException) -> InputError:
        """The fault if it is of one case; raises what ends all of the work."""
        if isinstance(error, InputError):
            return error
        if isinstance(error, BrokenProcessPool):
            raise killed(self.processes, self.remedy) from error
        fault = machine_fault(error)
        if fault and not isinstance(error, OSError):
            return InputError(f"case {key}: {fault} and run the same command again.")
        if fault:
            raise InputError(f"{fault} {self.remedy}") from error
        raise RuntimeError(f"Case {key}: a bug, or something in it that nobody thought of.") from error


def killed(processes: int, remedy: str) -> InputError:
    """What to raise when a worker was killed."""
    fewer = f"Ask for fewer than -np {processes}" if processes > 1 else "Give it more memory"
    return InputError(f"A worker process was killed, most likely for want of memory. {fewer} {remedy}")


def _begin_worker(set_up: Callable[[], Any] | None) -> None:
    # The workers of a killed run would otherwise wait for work forever.
    def watch() -> None:
        parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    if set_up is not None:
        set_up()
