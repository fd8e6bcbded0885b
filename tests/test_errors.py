"""Which exceptions are the machine's fault, in which words, and how the command ends with them."""

import errno
import os
import pickle
import shutil
import sys

import blosc2
import numpy as np
import pytest
import torch
from workbench import file_size_limit, small_disk

from nnunet_ssl import cli
from nnunet_ssl.checkpoints import write_checkpoint
from nnunet_ssl.errors import InputError, machine_fault
from nnunet_ssl.files import write_json, writing

NOISE = np.random.default_rng(0).normal(size=(60, 60, 60))


def raised(function, *arguments):
    with pytest.raises(Exception) as caught:  # noqa: B017 (which one is what the test looks at)
        function(*arguments)
    return caught.value


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.ENOSPC, "/x/case.pkl cannot be written: No space left on device. Make room"),
        (errno.EDQUOT, "/x/case.pkl cannot be written: Disk quota exceeded. Make room"),
        (errno.EACCES, "/x/case.pkl: Permission denied. Give the right to it, or name another place,"),
        (errno.EROFS, "/x/case.pkl: Read-only file system. Give the right to it, or name another place,"),
        (errno.ESTALE, "/x/case.pkl: Stale file handle. Look after the disk or its connection"),
        (errno.ENOENT, "The folder /x is gone (removed or unmounted?). Bring it back"),
        (errno.EBADF, ""),
    ],
)
def test_words_for_what_the_system_says(number, told):
    assert machine_fault(OSError(number, os.strerror(number), "/x/case.pkl")) == told


def test_a_missing_file_in_a_folder_that_is_there_may_be_a_bug(tmp_path):
    assert machine_fault(raised(open, tmp_path / "a")) == ""
    assert machine_fault(raised(open, tmp_path / "b" / "a")) == (
        f"The folder {tmp_path / 'b'} is gone (removed or unmounted?). Bring it back"
    )
    (tmp_path / "whole").touch()
    error = raised(os.replace, tmp_path / "whole", tmp_path / "b" / "whole")
    assert f"The folder {tmp_path / 'b'} is gone" in machine_fault(error)


def test_memory():
    assert machine_fault(raised(np.empty, 2**58)).startswith("Not enough memory: Unable to allocate 2.00 EiB")
    assert machine_fault(raised(torch.empty, 2**58)).startswith("Not enough memory: ")
    assert machine_fault(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")).startswith(
        "Not enough memory: CUDA out of memory. Tried to allocate 2 GiB."
    )
    assert machine_fault(RuntimeError("size mismatch")) == machine_fault(ValueError()) == machine_fault(None) == ""


WRITERS = {
    "pickle": lambda file: pickle.dump(NOISE, open(file, "wb", buffering=0)),  # noqa: SIM115
    "blosc2": lambda file: blosc2.asarray(NOISE, urlpath=str(file), mode="w"),
    "torch": lambda file: torch.save({"noise": torch.from_numpy(NOISE)}, file),
}


def written(file, writer):
    with writing(file):
        WRITERS[writer](file)


@pytest.mark.parametrize("writer", WRITERS)
def test_why_a_library_cannot_write(tmp_path, writer):
    file = tmp_path / "case"
    with file_size_limit(200_000):
        error = raised(written, file, writer)
    assert machine_fault(error) == f"{file} cannot be written: File too large. Make room"
    error = raised(written, tmp_path / "gone" / "case", writer)
    assert f"The folder {tmp_path / 'gone'} is gone" in machine_fault(error)


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk(tmp_path, writer):
    with small_disk(tmp_path, kilobytes=500):
        error = raised(written, tmp_path / "case", writer)
        assert machine_fault(error) == f"{tmp_path / 'case'} cannot be written: No space left on device. Make room"


def test_blosc2_says_so_whatever_is_left_of_the_disk(tmp_path):
    """It never leaves an array that is not whole and says nothing."""
    blosc2.asarray(NOISE, urlpath=str(tmp_path / "whole"), mode="w")
    size = (tmp_path / "whole").stat().st_size
    for left in (0, 1, 100, 4096, size // 2, size - 4096, size - 100, size - 1, size):
        with file_size_limit(left):
            try:
                written(tmp_path / "case", "blosc2")
            except OSError:
                assert left < size
            else:
                assert np.array_equal(blosc2.open(str(tmp_path / "case"))[:], NOISE)


def test_a_refused_write_that_is_no_fault_of_the_machine_stays_what_it_was(tmp_path):
    def wrong():
        with writing(tmp_path / "case"):
            raise RuntimeError("chunks do not fit")

    assert str(raised(wrong)) == "chunks do not fit"


def test_checkpoints_and_small_files_on_a_full_disk(tmp_path):
    with small_disk(tmp_path, kilobytes=100):
        with pytest.raises(InputError, match="latest.pth cannot be written: No space left on device"):
            write_checkpoint({"noise": torch.from_numpy(NOISE)}, str(tmp_path / "latest.pth"))
        with pytest.raises(InputError, match=r"table.json cannot be written \(No space left on device\)"):
            write_json(["noise"] * 100_000, tmp_path / "table.json")
        assert os.listdir(tmp_path) == []


def run_command(monkeypatch, capsys, error):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(cli, "_as_typer_wants", fail)
    monkeypatch.setattr(sys, "argv", ["nnunet_ssl"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1
    return capsys.readouterr().err


def test_the_command_tells_the_machines_faults_and_nothing_else(monkeypatch, capsys):
    told = run_command(monkeypatch, capsys, PermissionError(errno.EACCES, "Permission denied", "/data/raw"))
    assert told == (
        "nnunet_ssl: /data/raw: Permission denied. Give the right to it, or name another place, and run the same "
        "command again.\n"
    )
    told = run_command(monkeypatch, capsys, MemoryError())
    assert told.startswith("nnunet_ssl: Not enough memory: the system gives no more. End what else uses it, or")
    assert run_command(monkeypatch, capsys, InputError("bad\x1b")) == "nnunet_ssl: bad\\x1b\n"
    for bug in (RuntimeError("a bug"), FileNotFoundError(errno.ENOENT, "No such file", f"{shutil.__file__}.no")):
        with pytest.raises(type(bug)):
            run_command(monkeypatch, capsys, bug)
