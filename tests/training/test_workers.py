"""Loader processes that fail, are killed or die with a lock: the training process says so and does not wait."""

import os
import re
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from nnunet_ssl.errors import InputError
from nnunet_ssl.training.workers import Workers

SECONDS = 10  # within which the parent must have raised; batchgenerators gives workers as long to end by themselves


class Odd(Exception):
    """Cannot be rebuilt from its pickle."""

    def __init__(self, first, second):
        super().__init__(f"{first} {second}")


class Batches:
    """Batches of `size` numbers; the worker with number 0 does `then` instead of making its third one."""

    def __init__(self, then=None, size=1000):
        self.then, self.size = then, size
        self.made = self.number = 0

    def set_thread_id(self, number):
        self.number = number

    def __next__(self):
        self.made += 1
        if self.made == 3 and self.number == 0 and self.then is not None:
            self.then(self)
        return {"data": torch.full((self.size,), self.number), "keys": [np.ones(self.size)]}


def pool_of(loader, processes=2):
    loader.pool = Workers(loader, num_processes=processes, num_cached=2, wait_time=0.002)
    return loader.pool


def use(pool):
    """Takes batches for so long that only a fault ends it; returns how long the last one was waited for."""
    end = time.monotonic() + 60
    while (before := time.monotonic()) < end:
        try:
            next(pool)
        except (InputError, RuntimeError):
            assert time.monotonic() - before < SECONDS
            raise
    raise AssertionError("the fault never arrived")


def fail(batches):
    raise Odd("unlabeled case case_7:", "file is damaged")


def die(batches):
    os.kill(os.getpid(), signal.SIGKILL)


def die_with_the_event(batches):
    """As if killed within the check of the event that all processes share."""
    batches.pool.abort_event._cond.acquire()
    die(batches)


def die_with_half_a_batch_sent(batches):
    """As if killed while a batch runs through the pipe to the parent."""
    queue = batches.pool._queue
    with queue._wlock:
        os.write(queue._writer.fileno(), struct.pack("!i", 10**6) + b"half")
        die(batches)


def leave(batches):
    sys.exit(3)


def test_batches_of_all_workers_arrive():
    pool = pool_of(Batches())
    seen, deadline = set(), time.monotonic() + 60  # on a busy machine the second one may start late
    while seen != {0, 1} and time.monotonic() < deadline:
        seen.add(int(next(pool)["data"][0]))
    assert seen == {0, 1}
    pool._finish()
    assert pool._processes == []


def test_the_message_of_a_worker_is_raised_in_the_parent():
    pool = pool_of(Batches(fail))
    with pytest.raises(RuntimeError, match=r"(?s)A loader process failed:.*in fail\n") as caught:
        use(pool)
    assert str(caught.value).splitlines()[-1].endswith("Odd: unlabeled case case_7: file is damaged")
    assert pool._processes == []


def miss_a_case(batches):
    raise InputError("unlabeled case case_7: it is gone")


def want_memory(batches):
    np.empty(2**58)


@pytest.mark.parametrize(
    ("then", "message"),
    [
        (miss_a_case, "^unlabeled case case_7: it is gone$"),
        (want_memory, r"^Not enough memory: Unable to allocate 2.00 EiB .* and continue \(--c\).$"),
    ],
)
def test_a_fault_of_input_or_machine_is_raised_without_the_workers_traceback(then, message):
    pool = pool_of(Batches(then))
    with pytest.raises(InputError, match=message):
        use(pool)
    assert pool._processes == []


@pytest.mark.parametrize("then", [die, die_with_the_event, die_with_half_a_batch_sent])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_worker_is_told_whatever_it_held(then, processes):
    pool = pool_of(Batches(then), processes)
    with pytest.raises(InputError, match="A loader process was killed, most likely for want of memory"):
        use(pool)
    assert pool._processes == []


def test_a_worker_that_leaves_is_told_with_its_status():
    with pytest.raises(RuntimeError, match="A loader process ended with status .*3"):
        use(pool_of(Batches(leave)))


class Unreadable:
    def __reduce__(self):
        return int, ("no number",)


def send_what_nobody_can_read(batches):
    batches.pool._queue.put(Unreadable())


def test_a_batch_that_cannot_be_taken_is_told_with_the_reason():
    with pytest.raises(RuntimeError, match="could not be taken:(?s:.*)invalid literal for int"):
        use(pool_of(Batches(send_what_nobody_can_read)))


@pytest.mark.parametrize("kills", [3, pytest.param(100, marks=pytest.mark.long)])
@pytest.mark.parametrize("pause", [0.0, 0.02], ids=["the parent waits", "workers wait"])
def test_workers_killed_at_any_moment(kills, pause):
    random = np.random.default_rng(kills)
    for _ in range(kills):
        pool = pool_of(Batches(size=50_000))
        next(pool)
        killed = time.monotonic() + random.uniform(0, 0.2)
        with pytest.raises(InputError, match="A loader process was killed"):
            while True:
                if killed is not None and time.monotonic() > killed:
                    os.kill(random.choice(pool._processes).pid, signal.SIGKILL)
                    killed = None
                    before = time.monotonic()
                next(pool)
                time.sleep(pause)
        assert time.monotonic() - before < SECONDS


# ---------------------------------------------------------------------- nnU-Net's command


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()]


def damage(process, dataset):
    """Cuts all unlabeled images short, each in one step as a copy over a network would not."""
    for file in dataset.base.glob("*_unlabeled/*.b2nd"):
        content = file.read_bytes()
        aside = file.with_suffix(".aside")
        aside.write_bytes(content[: len(content) // 2])
        os.replace(aside, file)


def kill_training_worker(process, dataset):
    os.kill(children(process.pid)[0], signal.SIGKILL)


def kill_validation_worker(process, dataset):
    os.kill(children(process.pid)[-1], signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (damage, r"unlabeled case \w+: .*\.b2nd cannot be read .*delete it and run `nnunet_ssl preprocess` again"),
        (kill_training_worker, "A loader process was killed, most likely for want of memory"),
        pytest.param(kill_validation_worker, "A loader process was killed", marks=pytest.mark.long),
    ],
)  # fmt: skip
def test_nnunets_command_ends_with_the_message(phantom_3d, tmp_path, monkeypatch, fault, message):
    dataset = phantom_3d.copy(tmp_path).use(monkeypatch)
    monkeypatch.setenv("nnUNet_n_proc_DA", "2")
    monkeypatch.setenv("nnUNet_ssl_config", "{num_iterations_per_epoch: 5, num_val_iterations_per_epoch: 2}")
    command = Path(sys.executable).parent / "nnUNetv2_train"
    arguments = ["7", "3d_fullres", "0", "-tr", "nnUNetTrainerMeanTeacher", "-p", dataset.plans, "-device", "cpu"]
    output = tmp_path / "output"
    with open(output, "w", encoding="utf-8") as file:
        process = subprocess.Popen([command, *arguments], stdout=file, stderr=file)
    try:
        while "Epoch 1" not in output.read_text(encoding="utf-8"):
            assert process.poll() is None, output.read_text(encoding="utf-8")
            time.sleep(0.1)
        fault(process, dataset)
        assert process.wait(120) == 1
    finally:
        process.kill()
    told = output.read_text(encoding="utf-8")
    assert re.match(f"nnunet_ssl: {message}", told.splitlines()[-1]) and "Traceback" not in told
