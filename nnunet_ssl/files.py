"""Small files: written whole or not at all, and read as data that may come from anyone."""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnunet_ssl.errors import InputError

LONGEST_NAME = 220  # bytes; what is appended to a name must fit into 255 as well
CLUTTER = ("thumbs.db", "ehthumbs.db", "desktop.ini")
PROBE = 2**22  # bytes; more than a library writes at once


@contextmanager
def writing(file: Path) -> Iterator[None]:
    """Within the context a file is written; why that fails is an `OSError` with the name of the file.

    A failed write of Python itself names none, and blosc2 raises a `RuntimeError` without a reason.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(file)
        raise
    except RuntimeError as error:
        if (reason := write_fault(file)) is None:
            raise
        raise reason from error


def write_fault(file: Path) -> OSError | None:
    """Why a library failed to write a file: what the system says when more is written to its end. None if nothing."""
    try:
        with open(file, "ab") as stream:
            stream.write(bytes(PROBE))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        return OSError(error.errno, error.strerror, str(file))
    return None


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8, as `write_bytes`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """As `write_aside`.

    Raises:
        InputError: it cannot be written: no space, no permission, a folder of this name.
    """
    try:
        write_aside(path, content)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}).") from error


def write_aside(path: Path, content: bytes) -> None:
    """Writes a file aside, in the same folder, and renames it.

    Raises:
        OSError: it cannot be written; nothing of it is left.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError:
        if partial.is_file():
            partial.unlink()
        raise


def write_json(content: Any, path: Path) -> None:
    """Writes JSON, without NaN, which other readers refuse."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, advice: str) -> Any:
    """The content of a JSON file.

    Args:
        advice: what to do if it cannot be read, for the message.

    Raises:
        InputError: no such file; no JSON in UTF-8; NaN or infinity; nested too deeply; a name that stands twice in one
            object.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text, object_pairs_hook=_each_once, parse_constant=_no_number)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: {advice}.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): {advice}.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({error}): {advice}.") from None


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return content


def require_keys(
    content: Any, needed: dict[str, tuple[type, ...]], file: Path, where: str = "", advice: str = "mend it"
) -> None:
    """Checks the types of an object of a JSON file; True and False are no numbers.

    Args:
        where: of the object in the file, such as `metrics.dice.`.

    Raises:
        InputError: it is no object, or a key is missing or has a value of another type.
    """
    if not isinstance(content, dict):
        raise InputError(f"{file}: {where.rstrip('.') or 'the whole'} must be an object with names: {advice}.")
    for key, types in needed.items():
        if key not in content:
            raise InputError(f"{file} lacks the key {where}{key}: {advice}.")
        value = content[key]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            shown = json.dumps(value, default=repr, skipkeys=True)[:60]  # a checkpoint may hold anything
            raise InputError(f"{file}: {where}{key} is {shown}, of another type than it must be: {advice}.")


def is_plain_name(name: Any) -> bool:
    """Whether a name can be part of a file name and of a message: not hidden, no folder in it, nothing unprintable."""
    return (
        isinstance(name, str)
        and name.isprintable()
        and not name.startswith(".")
        and not {"/", "\\"} & set(name)
        and 0 < len(name.encode()) <= LONGEST_NAME
    )


def is_clutter(name: str) -> bool:
    """Whether a file or folder is one that a system leaves behind: hidden, or known by its name."""
    return name.startswith((".", "__MACOSX")) or name.casefold() in CLUTTER


def check_case_ids(ids: Iterable[Any], file: Path) -> None:
    """Raises InputError unless all ids that `file` holds are plain names."""
    for case in ids:
        if not is_plain_name(case):
            raise InputError(
                f"{str(file)!r} names the case {str(case)[:60]!r}: use a name without folders and control characters, "
                f"not hidden, of at most {LONGEST_NAME} bytes."
            )


def require_new_folder(path: Path, option: str) -> None:
    """Raises InputError if a folder cannot be made at a place: its name is no plain one, or a file is in its way."""
    place = path.absolute()
    if place.name and len(os.fsencode(place.name)) > LONGEST_NAME:
        raise InputError(f"{option}: the name {place.name[:40]}... is too long.")
    nearest = next(parent for parent in (place, *place.parents) if os.path.lexists(parent))
    if not nearest.is_dir():
        raise InputError(f"{option} {path}: {nearest} is a file. Name another folder.")
