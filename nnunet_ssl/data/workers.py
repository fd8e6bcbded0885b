"""nnU-Net's pool of loader processes, whose faults reach the process that trains."""

from __future__ import annotations

import atexit
import signal
import traceback
from collections.abc import Iterator
from queue import Empty
from typing import Any

from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter

FAULT = "fault"  # the one key of an item that tells of an exception in a worker
PATIENCE = 1.0  # seconds without a batch after which the workers are looked at


class FaultsAsItems:
    """A loader that hands its exception on as an item, for an exception cannot leave a worker in any other way."""

    def __init__(self, loader: Iterator[dict]):
        self.loader = loader

    def __iter__(self) -> FaultsAsItems:
        return self

    def __next__(self) -> dict:
        try:
            return next(self.loader)
        except Exception:  # of any kind: none is dropped, the training process raises it
            return {FAULT: traceback.format_exc().rstrip()}

    def set_thread_id(self, thread_id: int) -> None:
        """Asked for by batchgenerators' workers."""
        self.loader.set_thread_id(thread_id)


class Workers(NonDetMultiThreadedAugmenter):
    """nnU-Net's pool of worker processes, which here never leaves the training process waiting for a batch in vain.

    An exception in a worker is raised with the worker's own traceback, whose last line is its message. A worker that is
    killed raises too. It may have held a lock that the others, and an orderly end of them, would wait for: they are
    killed as well.

    Args:
        loader: makes the batches.
        num_processes: number of workers.
        other: see `NonDetMultiThreadedAugmenter`.
    """

    def __init__(self, loader: Iterator[dict], num_processes: int, **other: Any):
        super().__init__(FaultsAsItems(loader), None, num_processes, **other)

    def __next__(self) -> dict:
        """The next batch.

        Raises:
            RuntimeError: a worker failed or was killed, with its message.
        """
        if not self.initialized:
            self._start()
        while True:
            try:
                item = self.results_loop_queue.get(timeout=PATIENCE)
            except Empty:
                ended = {worker.exitcode for worker in self._processes} - {None}
                if ended:
                    self._kill()
                    raise RuntimeError(f"A loader process {_reason(ended)}") from None
                continue
            if FAULT in item:
                self._finish()
                raise RuntimeError(f"A loader process failed:\n\n{item[FAULT]}")
            return item

    def end_at_once(self) -> None:
        """Ends the workers, which is no fault of theirs; an orderly end takes seconds."""
        if self.initialized:
            self.abort_event.set()
            self._kill()

    def _start(self) -> None:
        super()._start()
        # before Python ends the workers by itself, which would be told of as a fault, after the message of a real one
        atexit.register(self._finish)

    def _finish(self, *arguments: Any, **other: Any) -> None:
        super()._finish(*arguments, **other)
        atexit.unregister(self._finish)

    def _kill(self) -> None:
        for worker in self._processes:
            worker.kill()
        self.results_loop_thread.join(PATIENCE)  # what it prints about them shall not stand after our message
        self._processes, self.initialized = [], False  # nothing is left that an orderly end would wait for
        self._finish()


def _reason(exit_codes: set[int]) -> str:
    if -signal.SIGKILL in exit_codes:
        return (
            "was killed, most likely for want of memory: continue (--c) with fewer of them (variable nnUNet_n_proc_DA) "
            "or with more memory."
        )
    if -signal.SIGBUS in exit_codes:
        return "could not read a file that shrank under it, or shared memory is full (/dev/shm)."
    return f"ended with status {', '.join(map(str, sorted(exit_codes)))}; what it printed stands above."
