"""Locks: of two processes that would write one place, the second is refused and told who is there."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from nnunet_ssl.errors import InputError
from nnunet_ssl.files import writing

if os.name == "nt":
    import msvcrt

    FAR = 2**30  # Windows lets nobody read what is locked: a byte behind the text is
else:
    import fcntl

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}
_mine: set[Path] = set()


@contextlib.contextmanager
def locked(place: Path, wait: bool = False) -> Iterator[None]:
    """Within the context no other process has `place`, a file or folder that need not exist yet.

    The lock is one of the system on a hidden file beside the place, `.NAME.lock`. It ends with the process, however
    that ends; loader processes that a killed training leaves behind do not have it. The file itself says host, process,
    time and command; it is removed at the end, and one that a killed process leaves means nothing.

    Args:
        wait: wait for the other process to end.

    Raises:
        InputError: another process has the place; or this one has it already.
    """
    place = place.absolute()
    file = place.with_name(f".{place.name}.lock")
    if file in _mine:
        raise InputError(f"{place} is in use by this process already.")
    file.parent.mkdir(parents=True, exist_ok=True)
    stream = _take(file, place, wait)
    _mine.add(file)
    try:
        yield
    finally:
        _mine.remove(file)
        with contextlib.suppress(OSError):  # the folder is gone; Windows removes no open file
            file.unlink()
        stream.close()


def _take(file: Path, place: Path, wait: bool) -> IO[str]:
    told = False
    while True:
        stream = file.open("a+", encoding="utf-8")
        try:
            if not _try_to_lock(stream, place):
                message = f"{place} is in use: {_holder(stream)}"
                if not wait:
                    raise InputError(f"{message} {_what_to_do(stream, file)}")
                if not told:
                    print(f"{message} Waiting.", flush=True)
                told = True
                time.sleep(1)
            elif _is_at(stream, file):  # else the process that had it has just removed it
                with writing(file):
                    _write_holder(stream)
                return stream
        except BaseException:
            stream.close()
            raise
        stream.close()


def _try_to_lock(stream: IO[str], place: Path) -> bool:
    try:
        if os.name == "nt":
            stream.seek(FAR)
            msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            # of the process alone, unlike flock, which forked loaders would hold beyond its end
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        print(f"Note: the file system of {place} has no locks: make sure that nothing else writes there.", flush=True)
    return True


def _is_at(stream: IO[str], file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(stream.fileno()), os.stat(file))
    except FileNotFoundError:
        return False


def _write_holder(stream: IO[str]) -> None:
    command = " ".join([os.path.basename(sys.argv[0]), *sys.argv[1:]])
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    stream.truncate(0)
    stream.write(json.dumps(holder | {"command": command[:200]}))
    stream.flush()
    os.fsync(stream.fileno())  # other machines shall read it


def _read_holder(stream: IO[str]) -> dict:
    stream.seek(0)
    try:
        holder = json.loads(stream.read())
    except ValueError:  # it has not been written yet
        holder = {}
    keys = ("host", "pid", "since", "command")
    return holder if isinstance(holder, dict) and all(key in holder for key in keys) else {}


def _holder(stream: IO[str]) -> str:
    if not (holder := _read_holder(stream)):
        return "another process has just begun there."
    return "process {pid} on {host} has it since {since} (`{command}`).".format_map(holder)


def _what_to_do(stream: IO[str], file: Path) -> str:
    holder = _read_holder(stream)
    if not holder or holder["host"] == socket.gethostname():
        return "Wait until it has ended, or end it."
    return f"Wait until it has ended, or end it there; if {holder['host']} is down for good, remove {file}."
