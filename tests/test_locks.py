"""Of two processes that would write one place one is refused, and a lock ends with its process."""

import errno
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from multiprocessing import get_context

import pytest
from workbench import HOLD, another_process_holds

from nnunet_ssl.data.splits import write_splits
from nnunet_ssl.demo.pipeline import run_demo
from nnunet_ssl.errors import InputError
from nnunet_ssl.locks import locked
from nnunet_ssl.preparation.backbones import write_plans
from nnunet_ssl.preparation.planning import plan_fold
from nnunet_ssl.results.export import export_model


def test_the_second_process_is_told_who_is_there(tmp_path):
    place = tmp_path / "Dataset001_Heart"
    with another_process_holds(place) as other:
        with pytest.raises(InputError) as caught, locked(place):
            pass
        told = str(caught.value)
        assert told.startswith(f"{place} is in use: process {other} on {socket.gethostname()} has it since 20")
        assert told.endswith(f"(`-c {place}`). Wait until it has ended, or end it.") and "\n" not in told
        with locked(tmp_path / "Dataset002_Liver"):
            pass
    with locked(place):
        assert os.listdir(tmp_path) == [".Dataset001_Heart.lock"]
    assert os.listdir(tmp_path) == []


def test_the_lock_of_a_killed_process_means_nothing(tmp_path):
    place = tmp_path / "place"
    with another_process_holds(place) as other:
        os.kill(other, signal.SIGKILL)
    assert (tmp_path / ".place.lock").stat().st_size > 0
    with locked(place):
        pass
    assert os.listdir(tmp_path) == []


FORK = """
import os, sys, time
from pathlib import Path
from nnunet_ssl.locks import locked
with locked(Path(sys.argv[1])):
    child = os.fork()
    if child:
        print(child, flush=True)
    time.sleep(1000)
"""


def test_a_process_that_was_forked_does_not_hold_it(tmp_path):
    """As the loaders of a training that was killed: they live on."""
    command = [sys.executable, "-c", FORK, str(tmp_path / "place")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8") as parent:
        child = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
        try:
            with locked(tmp_path / "place"):
                os.kill(child, 0)  # it is there
        finally:
            os.kill(child, signal.SIGKILL)


def test_another_machine_is_named_with_what_to_do_if_it_is_down(tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "login1")
    with another_process_holds(tmp_path / "place"), pytest.raises(InputError) as caught, locked(tmp_path / "place"):
        pass
    here = os.uname().nodename
    assert str(caught.value).endswith(
        f"or end it there; if {here} is down for good, remove {tmp_path / '.place.lock'}."
    )


def test_one_process_has_a_place_once(tmp_path):
    with locked(tmp_path / "place"):
        with pytest.raises(InputError, match="in use by this process already"), locked(tmp_path / "place"):
            pass
        with pytest.raises(InputError, match="in use: process"):
            raise_in_a_process(tmp_path / "place")  # what was refused did not free the lock


def raise_in_a_process(place):
    done = subprocess.run(
        [sys.executable, "-c", HOLD, str(place)], capture_output=True, encoding="utf-8", stdin=subprocess.DEVNULL
    )
    if done.returncode:
        raise InputError(done.stderr.splitlines()[-1])


def test_waiting(tmp_path, capsys):
    with another_process_holds(tmp_path / "place") as other:
        ended = threading.Timer(0.5, os.kill, (other, signal.SIGTERM))
        ended.start()
        with locked(tmp_path / "place", wait=True):
            ended.join()
    told = capsys.readouterr().out
    assert told.count("\n") == 1 and told.endswith(" Waiting.\n") and f"process {other} on " in told


def count(place, file, rounds):
    for _ in range(rounds):
        while True:
            try:
                with locked(place):
                    number = int(file.read_text(encoding="utf-8"))
                    time.sleep(0.001)
                    file.write_text(str(number + 1), encoding="utf-8")
                break
            except InputError:
                time.sleep(0.001)


def test_no_two_processes_are_ever_inside(tmp_path):
    """Each removes the file at its end, which the others may have opened already."""
    file = tmp_path / "number"
    file.write_text("0", encoding="utf-8")
    context = get_context("spawn")
    processes = [context.Process(target=count, args=(tmp_path / "place", file, 100)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert file.read_text(encoding="utf-8") == "400"


def test_a_file_system_without_locks_is_said_so(tmp_path, monkeypatch, capsys):
    def lockf(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", lockf)
    with locked(tmp_path / "place"):
        pass
    assert capsys.readouterr().out == (
        f"Note: the file system of {tmp_path / 'place'} has no locks: make sure that nothing else writes there.\n"
    )


# ---------------------------------------------------------------------- the commands


def split(dataset, folder):
    write_splits(7, None, 1, 2, force=True)


def plan(dataset, folder):
    plan_fold(7, 0, plans_name="nnUNetPlans_mine")


def backbone(dataset, folder):
    write_plans(dataset.base, dataset.plans, "segresnet", "nnUNetPlans_other", ["3d_fullres"])


def export(dataset, folder):
    export_model(folder / "model", ["0"], folder / "out")


def demo(dataset, folder):
    run_demo(folder / "demo", "cpu")


@pytest.mark.parametrize(
    ("command", "place"),
    [
        (split, "preprocessed/Dataset007_Phantom/splits_final.json"),
        (plan, "preprocessed/Dataset007_Phantom/nnUNetPlans_mine"),
        (backbone, "preprocessed/Dataset007_Phantom/nnUNetPlans_other.json"),
        (export, "out"),
        (demo, "demo"),
    ],
)
def test_commands_are_refused_where_another_process_is(phantom_3d, tmp_path, monkeypatch, command, place):
    """convert, preprocess, predict_next_stage, run and training are tested with their own."""
    dataset = phantom_3d.copy(tmp_path).use(monkeypatch)
    place = (dataset.root if "/" in place else tmp_path) / place
    with another_process_holds(place) as other:
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(InputError, match=f"^{re.escape(str(place))} is in use: process {other} on "):
            command(dataset, tmp_path)
        assert sorted(tmp_path.rglob("*")) == before
