"""Work on cases in processes: faults of cases are collected, the machine's end the work, bugs keep their traceback."""

import errno
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nnunet_ssl.errors import InputError
from nnunet_ssl.pools import Pool


def do(case, what):
    if what == "bad":
        raise InputError(f"case {case}: no scan")
    if what == "memory":
        raise MemoryError("Unable to allocate 14.6 TiB")
    if what == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"/data/{case}.b2nd")
    if what == "bug":
        raise KeyError(case)
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def run(processes, **work):
    with Pool(processes) as pool:
        return dict(pool.run(do, ((case, (case, what)) for case, what in work.items())))


@pytest.fixture(params=[0, 2], ids=["here", "workers"])
def processes(request):
    return request.param


def test_results_and_faults_of_cases_come_together(processes):
    found = run(processes, a="fine", b="bad", c="memory", d="fine")
    assert (found["a"] == os.getpid()) == (processes == 0)
    assert str(found["b"]) == "case b: no scan" and isinstance(found["d"], int)
    assert str(found["c"]).startswith("case c: Not enough memory: Unable to allocate 14.6 TiB. End what else uses it")


def test_what_the_machine_lacks_ends_the_work(processes):
    with pytest.raises(InputError) as caught:
        run(processes, a="fine", b="full")
    assert str(caught.value) == (
        "/data/b.b2nd cannot be written: No space left on device. Make room and run the same command again: finished "
        "cases are kept."
    )


def test_a_bug_keeps_its_traceback(processes):
    with pytest.raises(RuntimeError, match="Case b: a bug") as caught:
        run(processes, a="fine", b="bug")
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_killed_worker():
    message = "A worker process was killed, most likely for want of memory. Ask for fewer than -np 2 and run .* kept"
    with pytest.raises(InputError, match=message):
        run(2, a="killed", b="fine", c="fine", d="fine", e="fine")
    with pytest.raises(InputError, match="Give it more memory and run"):
        run(1, a="killed")


def test_no_more_work_is_made_than_is_in_work(processes):
    made = done = most = 0

    def work():
        nonlocal made, most
        for case in range(12):
            made += 1
            most = max(most, made - done)
            yield str(case), (str(case), "fine")

    with Pool(processes) as pool:
        for _ in pool.run(do, work()):
            done += 1
    assert (made, done) == (12, 12) and most <= processes + 1


KILLED = """
import os, signal, sys, time
from pathlib import Path
from nnunet_ssl.pools import Pool

def wait(folder):
    Path(folder, str(os.getpid())).touch()
    time.sleep(1000)

if __name__ == "__main__":
    with Pool(2) as pool:
        list(pool.run(wait, ((i, (sys.argv[1],)) for i in range(3))))
"""


def test_workers_end_with_a_killed_command(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(KILLED, encoding="utf-8")
    pids = tmp_path / "pids"
    pids.mkdir()
    command = subprocess.Popen([sys.executable, str(script), str(pids)])
    deadline = time.monotonic() + 60
    while len(os.listdir(pids)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    command.kill()
    command.wait()
    for pid in map(int, os.listdir(pids)):
        while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_the_name_of_a_file_comes_out_of_a_worker():
    error = OSError(errno.ENOSPC, "No space left on device")
    error.filename = "/data/a.b2nd"
    assert pickle.loads(pickle.dumps(error)).filename == "/data/a.b2nd"
