"""Finding and reading the files of a downloaded data set."""

import os
import re
from pathlib import Path

import h5py
import numpy as np
import SimpleITK as sitk

from nnunet_ssl.data.headers import DEFLATE, SMALL, header_fault, nifti_is_whole
from nnunet_ssl.data.raw import listed
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import is_clutter

NIFTI = r"\.nii(\.gz)?"
FACTORS = ("scale", "offset")  # attributes of an h5 array that our readers apply
DAMAGED = "cannot be read (damaged or truncated); fetch it again"


def find_files(source: Path, pattern: str) -> dict[str, Path]:
    """The files below a folder by id, in the order of their paths.

    Hidden files and folders and other clutter of systems are passed over; links are followed, but into no
    folder twice.

    Args:
        pattern: regular expression for the end of the full path with ``/`` between folders; its group ``id`` is the id.

    Raises:
        InputError: ``source`` is no folder, or an id is there more than once.
    """
    if not source.is_dir():
        raise InputError(f"SOURCE {source} is no folder.")
    expression = re.compile(rf".*/{pattern}")
    found: dict[str, list[Path]] = {}
    seen: set[tuple[int, int]] = set()
    for folder, subfolders, names in os.walk(source.absolute(), followlinks=True):
        place = os.stat(folder)
        if (place.st_dev, place.st_ino) in seen:
            subfolders.clear()
            continue
        seen.add((place.st_dev, place.st_ino))
        subfolders[:] = sorted(name for name in subfolders if not is_clutter(name))
        for name in sorted(names):
            match = expression.fullmatch(f"{Path(folder).as_posix()}/{name}")
            if match and not is_clutter(name):
                found.setdefault(match["id"], []).append(Path(folder) / name)
    if twice := {name: paths for name, paths in found.items() if len(paths) > 1}:
        places = [f"{name} ({', '.join(map(str, paths))})" for name, paths in twice.items()]
        raise InputError(f"{source} holds scans twice: {listed(places)}. Point SOURCE at one of the folders.")
    return {name: paths[0] for name, paths in found.items()}


def read_volume(path: Path) -> sitk.Image:
    """Reads a scalar 3D image file with its geometry.

    Raises:
        InputError: missing, unreadable, truncated, or no scalar 3D volume.
    """
    require_whole(path)
    try:
        image = sitk.ReadImage(str(path))
    except (RuntimeError, MemoryError) as error:
        raise InputError(f"{path} {DAMAGED}") from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(f"{path} is no scalar 3D volume (size {image.GetSize()}); replace it")
    return image


def require_whole(path: Path) -> None:
    """Raises :class:`InputError` unless an image file holds what its header claims: all of it, and in this file."""
    if not path.is_file():
        raise InputError(f"{path} is missing; fetch it again")
    if not nifti_is_whole(path):
        raise InputError(f"{path} {DAMAGED}")
    if path.name.endswith(".nrrd") and re.search(rb"(?im)^data ?file:", path.read_bytes().partition(b"\n\n")[0]):
        raise InputError(f"{path} says that its voxels are another file; replace it by a file that holds them")
    if fault := header_fault(path):
        raise InputError(f"{path}: {fault}; fetch it again")


def read_h5(path: Path, key: str, axes: str) -> tuple[np.ndarray, dict[str, float]]:
    """An array of an h5 file and those of its attributes that are in :data:`FACTORS`.

    Args:
        axes: the axes that it must have, such as ``"zyx"``.

    Raises:
        InputError: missing, unreadable, no such array, empty, or other axes.
    """
    try:
        with h5py.File(path) as file:
            if not isinstance(file.get(key, getlink=True), h5py.HardLink):
                raise InputError(f"{path} has no '{key}'; replace it")
            stored = file[key]
            _require_plain(stored, path, key, axes)
            return stored[()], {name: float(value) for name, value in stored.attrs.items() if name in FACTORS}
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} {DAMAGED}") from error


def _require_plain(stored: h5py.Dataset, path: Path, key: str, axes: str) -> None:
    """Raises InputError unless an entry holds numbers, in this file, with these axes, and no more than fits in it."""
    if not isinstance(stored, h5py.Dataset) or stored.dtype.kind not in "biuf":
        raise InputError(f"{path}: '{key}' is no array of numbers; replace it")
    if stored.shape is None or len(stored.shape) != len(axes) or not stored.size:
        raise InputError(f"{path}: '{key}' has shape {stored.shape}, not ({', '.join(axes)}); replace it")
    if stored.external or stored.is_virtual:
        raise InputError(f"{path} says that '{key}' is another file; replace it by a file that holds it")
    if stored.size > max(SMALL, DEFLATE * path.stat().st_size):
        raise InputError(f"{path}: '{key}' claims shape {stored.shape}, which this file cannot hold; fetch it again")
    for name in set(FACTORS) & set(stored.attrs):
        factor = np.asarray(stored.attrs[name])
        if factor.dtype.kind not in "iuf" or factor.size != 1 or not np.isfinite(factor).all():
            raise InputError(f"{path}: the attribute '{name}' of '{key}' is no number; replace it")


def with_geometry(voxels: np.ndarray, like: sitk.Image) -> sitk.Image:
    """An image of other voxels ``(z, y, x)`` on the grid of another."""
    image = sitk.GetImageFromArray(voxels)
    image.CopyInformation(like)
    return image
