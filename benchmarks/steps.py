"""Commands of this environment, each with a log."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from nnunet_ssl.commands import find_command
from nnunet_ssl.errors import InputError

PATIENCE = 60  # seconds that an interrupted command has to end what it started


def run_command(title: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
    """Runs a command of this Python environment; its output goes to the end of `log`.

    An interrupt ends the command too, and waits until it has.

    Raises:
        InputError: the exit status is not 0.
    """
    print(f"{title} ...", flush=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with log.open("a", encoding="utf-8") as stream:
        stream.write(f"\n=== {' '.join(command)}\n")
        stream.flush()
        process = subprocess.Popen(
            [find_command(command[0]), *command[1:]],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that the command and its workers can be ended together
        )
    try:
        status = process.wait()
    except KeyboardInterrupt:
        _end(process)
        raise
    if status:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise InputError(f"{title} failed with exit status {status}: {lines[-1].strip()}\nIts output: {log}")
    print(f"{title}: {timedelta(seconds=round(time.monotonic() - start))}", flush=True)


def _end(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(PATIENCE)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def digest_of(file: Path) -> str:
    """sha256 of a file's bytes, as hexadecimal digits."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
