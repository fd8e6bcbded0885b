"""nnU-Net's pool of loader processes, whose faults reach the process that trains."""

from __future__ import annotations

import atexit
import signal
import traceback
from collections.abc import Iterator
from queue import Empty
from typing import Any

from batchgenerators.dataloading import nondet_multi_threaded_augmenter as augmenter
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter, results_loop

from nnunet_ssl.errors import InputError, machine_fault

FAULT, BUG = "fault", "bug"  # the one key of an item that tells of an exception in a worker, by its kind
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
        except Exception as error:  # of any kind: none is dropped, the training process raises it
            if isinstance(error, InputError):
                return {FAULT: str(error)}
            if fault := machine_fault(error):
                return {FAULT: f"{fault} and continue (--c)."}
            return {BUG: traceback.format_exc().rstrip()}

    def set_thread_id(self, thread_id: int) -> None:
        """Asked for by batchgenerators' workers."""
        self.loader.set_thread_id(thread_id)


class Workers(NonDetMultiThreadedAugmenter):
    """nnU-Net's pool of worker processes, which here never leaves the training process waiting for a batch in vain.

    A fault of the input or the machine in a worker is raised as it is, any other exception with the worker's own
    traceback, whose last line is its message. A worker that is killed raises too. It may have held a lock that the
    others, and an orderly end of them, would wait for: they are killed as well.

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
            InputError: a worker met a fault of the input or the machine, or was killed.
            RuntimeError: a worker failed in another way.
        """
        if not self.initialized:
            self._start()
        while True:
            try:
                item = self.results_loop_queue.get(timeout=PATIENCE)
            except Empty:
                if ended := {worker.exitcode for worker in self._processes} - {None}:
                    self._kill()
                    raise _end_of(ended, self._thread_fault) from None
                continue
            if not item.keys() & {FAULT, BUG}:
                return item
            self._finish()
            if FAULT in item:
                raise InputError(item[FAULT])
            raise RuntimeError(f"A loader process failed:\n\n{item[BUG]}")

    def end_at_once(self) -> None:
        """Ends the workers, which is no fault of theirs; an orderly end takes seconds."""
        if self.initialized:
            self.abort_event.set()
            self._kill()

    def _start(self) -> None:
        self._thread_fault = ""
        augmenter.results_loop = self._take_batches
        try:
            super()._start()
        finally:
            augmenter.results_loop = results_loop
        # before Python ends the workers by itself, which would be told of as a fault, after the message of a real one
        atexit.register(self._finish)

    def _take_batches(self, *arguments: Any) -> None:
        """Runs in the thread of batchgenerators, which would print a traceback about a worker that has ended."""
        try:
            results_loop(*arguments)
        except Exception:  # of any kind: none is dropped, the training process raises it
            self._thread_fault = traceback.format_exc().rstrip()

    def _finish(self, *arguments: Any, **other: Any) -> None:
        super()._finish(*arguments, **other)
        atexit.unregister(self._finish)

    def _kill(self) -> None:
        for worker in self._processes:
            worker.kill()
        self.results_loop_thread.join(PATIENCE)
        self._processes, self.initialized = [], False  # nothing is left that an orderly end would wait for
        self._finish()


def _end_of(exit_codes: set[int], thread_fault: str) -> Exception:
    """What to raise for workers that have ended, by themselves or because nobody can take their batches."""
    if -signal.SIGKILL in exit_codes:
        return InputError(
            "A loader process was killed, most likely for want of memory: continue (--c) with fewer of them (variable "
            "nnUNet_n_proc_DA) or with more memory."
        )
    if -signal.SIGBUS in exit_codes:
        return InputError(
            "A loader process could not read a file that shrank under it, or shared memory is full (/dev/shm): "
            "see to that and continue (--c)."
        )
    if exit_codes == {0} and thread_fault:
        return RuntimeError(f"The batches of the loader processes could not be taken:\n\n{thread_fault}")
    codes = ", ".join(map(str, sorted(exit_codes)))
    return RuntimeError(f"A loader process ended with status {codes}; what it printed stands above.")
