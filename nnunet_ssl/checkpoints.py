"""Checkpoint files, written whole or not at all and read only if whole."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnunet_ssl.errors import InputError

PARTIAL = ".partial"
CHECKPOINT_KEY = "semi_supervised"  # our entry beside those of nnU-Net
# what zipfile raises on a damaged archive, then what torch raises on one that holds something else
DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, RuntimeError, EOFError, ValueError, OSError)
FOREIGN = (RuntimeError, EOFError, ValueError, LookupError, TypeError, pickle.UnpicklingError)


def _named_by_numpy_1(function: Callable) -> Callable:
    """A function of NumPy under the name of the module where NumPy 1 had it, as files of that time say."""

    def same(*arguments: Any) -> Any:
        return function(*arguments)

    same.__module__, same.__name__, same.__qualname__ = "numpy.core.multiarray", *[function.__name__] * 2
    return same


# beside plain values and tensors nnU-Net's steps and logs give NumPy's, which a pickle makes with these
MAKERS = (np.float64(0).__reduce__()[0], np.empty(0).__reduce__()[0])
NUMPY = [
    *(*MAKERS, *map(_named_by_numpy_1, MAKERS), np.ndarray, np.dtype),
    *(type(np.dtype(kind)) for kind in "efdilq?"),
]


def write_checkpoint(content: dict[str, Any], file: str) -> None:
    """Writes aside, has the disk confirm it, and renames: after a kill or a power loss the old file or the new one lies
    there, never a part.

    Raises:
        InputError: the disk is full or the folder cannot be written; the file that was there is as before.
    """
    partial = file + PARTIAL
    try:
        with open(partial, "wb") as stream:
            torch.save(content, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, file)
        _confirm_rename(os.path.dirname(file))
    except (OSError, RuntimeError) as error:
        # torch fails again while it closes the file, with an error of its own
        reason = error if isinstance(error, OSError) else error.__context__
        if not isinstance(reason, OSError):
            raise
        with contextlib.suppress(OSError):
            os.remove(partial)
        raise InputError(
            f"{file} cannot be written: {reason.strerror or reason}. The checkpoints in its folder are as before; make "
            "room or give the right to write, and continue with --c."
        ) from error


def _confirm_rename(folder: str) -> None:
    if os.name == "nt":  # has no way to open a folder
        return
    descriptor = os.open(folder or ".", os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_checkpoint(file: str) -> dict[str, Any]:
    """The content of a checkpoint, with its tensors on the CPU; it is read as data, none of it is run.

    From there whatever loads it takes it to where it belongs. On a GPU Adam would count its steps there, and the host
    would wait to read each count.

    Raises:
        InputError: the file is cut off or damaged, holds code, or is no checkpoint of nnU-Net. torch itself takes
            changed weights for good, as it does not look at the checksums.
    """
    content, fault = read_whole(file, "cpu")
    if not isinstance(content, dict) or "trainer_name" not in content:
        raise InputError(
            f"{file} is no whole checkpoint ({fault or 'it names no trainer'}). Replace it by a copy, or remove it: "
            "--c then goes on from checkpoint_latest or checkpoint_best, if they are there, else from the start."
        )
    return content


def read_whole(file: str | os.PathLike, device: torch.device | str) -> tuple[Any, str]:
    """What a file holds, read as data, and what is wrong with it: that it is damaged, or holds more than data."""
    try:
        with zipfile.ZipFile(file) as archive:
            if part := archive.testzip():
                return None, f"{part} is damaged"
    except DAMAGED as error:
        return None, (error.strerror if isinstance(error, OSError) else "") or str(error)
    try:
        return load_as_data(file, device), ""
    except FOREIGN as error:
        if not isinstance(error, pickle.UnpicklingError):
            return None, str(error).partition("\n")[0]
        named = re.search(r"GLOBAL (\S+)", str(error))
        return None, f"it holds more than data: {named.group(1)}" if named else "it holds more than data"


def has_diverged(weights: Mapping[str, Any]) -> bool:
    """Whether some weight is NaN or infinite, with which a network predicts nothing, and says so nowhere."""
    return not all(value.isfinite().all() for value in weights.values() if isinstance(value, Tensor))


def refuse_diverged(what: object, *weights: Mapping[str, Any]) -> None:
    """Raises InputError, which begins with `what`, if one of these has diverged."""
    if any(map(has_diverged, weights)):
        raise InputError(
            f"{what} has weights that are no numbers: its training diverged; look at its log, train it anew."
        )


def networks_of(checkpoint: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights of the network that predicts, and those of a second one that was trained beside it, if any.

    Where their average predicts, they are the two that it averages.
    """
    deployed = checkpoint["network_weights"]
    first, second = (below(deployed, f"{member}.") for member in ("first", "second"))
    return first or deployed, second or below(state_of_method(checkpoint), "twin.")


def state_of_method(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """What a method saved of its own; nothing in a checkpoint of another trainer."""
    state = checkpoint.get(CHECKPOINT_KEY)
    method = state.get("method") if isinstance(state, dict) else None
    return method if isinstance(method, dict) else {}


def below(weights: dict[str, Any], prefix: str) -> dict[str, Any]:
    """The entries under a prefix, by what follows it."""
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


def load_as_data(file: str | os.PathLike, device: torch.device | str) -> Any:
    """What `torch.load` makes of a file with `weights_only`, which raises what torch does."""
    with torch.serialization.safe_globals(NUMPY):
        return torch.load(file, map_location=device, weights_only=True)


def remove_partial(folder: str) -> None:
    """Removes what a killed run had not finished to write."""
    for file in Path(folder).glob(f"checkpoint_*.pth{PARTIAL}"):
        if file.is_file():
            file.unlink()
