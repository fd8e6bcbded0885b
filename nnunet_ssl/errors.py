"""Faults that are no bug: those of the user's input, and what the machine lacks. They are told without a traceback."""

import errno
import re
import sys
import traceback
from pathlib import Path

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
FAILED = {errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ENODEV, errno.ENXIO}
# The end of a printed traceback: the innermost file and what was raised there.
LAST = re.compile(
    r'\n  File "([^"]+)", line \d+, in [^\n]+\n(?:    [^\n]*\n)*'
    r"(nnunet_ssl\.errors\.InputError|NotImplementedError): (.+)\Z",
    re.DOTALL,
)


class InputError(ValueError):
    """Bad input from the user: the message names the case and the file and says what to do, in a line or two.

    The command prints the message without a traceback and exits with status 1.
    """


def say(message: str) -> None:
    """Prints a fault on stderr; names of files may hold anything, also what a terminal obeys."""
    shown = "".join(sign if sign.isprintable() or sign == "\n" else repr(sign)[1:-1] for sign in message)
    print(f"nnunet_ssl: {shown}", file=sys.stderr)


def machine_fault(error: BaseException | None) -> str:
    """What the machine lacks, if an exception came from that: space, a right, a folder, a disk or memory.

    The sentence names the file and begins what to do: "... Make room". Empty for any other exception.
    """
    if isinstance(error, MemoryError) or _is_torchs(error):
        reason = (str(error).strip().splitlines() or ["the system gives no more"])[0]
        return f"Not enough memory: {reason[:200]}. End what else uses it, or ask for fewer processes (-np),"
    if not isinstance(error, OSError):
        return ""
    file = error.filename2 or error.filename or "a file"
    if error.errno in FULL:
        return f"{file} cannot be written: {error.strerror}. Make room"
    if error.errno in FORBIDDEN:
        return f"{file}: {error.strerror}. Give the right to it, or name another place,"
    if error.errno in FAILED:
        return f"{file}: {error.strerror}. Look after the disk or its connection"
    if error.errno in (errno.ENOENT, errno.ENOTDIR) and (folder := _lost_folder(error)):
        return f"The folder {folder} is gone (removed or unmounted?). Bring it back"
    return ""


def _lost_folder(error: OSError) -> Path | None:
    """The folder that is missing rather than a file in it, of which a bug may have asked."""
    folders = [Path(file).absolute().parent for file in (error.filename, error.filename2) if isinstance(file, str)]
    return next((folder for folder in folders if not folder.is_dir()), None)


def _is_torchs(error: BaseException | None) -> bool:
    """Whether torch wants memory, of a GPU or not; it need not have been imported."""
    return type(error).__name__ == "OutOfMemoryError" or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


def refusal(error: BaseException) -> str:
    """The message of an exception by which this package refuses a training; empty for any other exception.

    That is an `InputError`, or a `NotImplementedError` of a module of ours, of this process or of a rank that it has
    spawned, of which only the printed traceback arrives.
    """
    spawned = type(error).__name__ == "ProcessRaisedException"
    text = str(error) if spawned else "".join(traceback.format_exception(type(error), error, error.__traceback__))
    if not (end := LAST.search(text.rstrip())):
        return ""
    file, kind, message = end.groups()
    ours = kind != "NotImplementedError" or Path(file).is_relative_to(Path(__file__).parent)
    return message if ours else ""
