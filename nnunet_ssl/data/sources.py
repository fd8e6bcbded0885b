"""Finding and reading the files of a downloaded data set."""

import os
import re
from pathlib import Path

import h5py
import numpy as np
import SimpleITK as sitk

from nnunet_ssl.data.raw import listed, nifti_is_whole
from nnunet_ssl.errors import InputError

NIFTI = r"\.nii(\.gz)?"
DAMAGED = "cannot be read (damaged or truncated); fetch it again"


def find_files(source: Path, pattern: str) -> dict[str, Path]:
    """The files below a folder by id, in the order of their paths.

    Hidden files and folders and those that macOS adds to archives are passed over.

    Args:
        pattern: regular expression for the end of the full path with ``/`` between folders; its group ``id`` is the id.

    Raises:
        InputError: ``source`` is no folder, or an id is there more than once.
    """
    if not source.is_dir():
        raise InputError(f"SOURCE {source} is no folder.")
    expression = re.compile(rf".*/{pattern}")
    found: dict[str, list[Path]] = {}
    for folder, subfolders, names in os.walk(source.absolute(), followlinks=True):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith((".", "__MACOSX")))
        for name in sorted(names):
            match = expression.fullmatch(f"{Path(folder).as_posix()}/{name}")
            if match and not name.startswith("."):
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
    except RuntimeError as error:
        raise InputError(f"{path} {DAMAGED}") from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(f"{path} is no scalar 3D volume (size {image.GetSize()}); replace it")
    return image


def require_whole(path: Path) -> None:
    """Raises :class:`InputError` if an image file is missing, or is a NIfTI file of any dimension that is truncated."""
    if not path.is_file():
        raise InputError(f"{path} is missing; fetch it again")
    if path.name.endswith((".nii", ".nii.gz")) and not nifti_is_whole(path):
        raise InputError(f"{path} {DAMAGED}")


def read_h5(path: Path, key: str, axes: str) -> tuple[np.ndarray, dict[str, float]]:
    """An array of an h5 file and its attributes.

    Args:
        axes: the axes that it must have, such as ``"zyx"``.

    Raises:
        InputError: missing, unreadable, no such array, empty, or other axes.
    """
    try:
        with h5py.File(path) as file:
            if key not in file:
                raise InputError(f"{path} has no '{key}'; replace it")
            voxels, attributes = file[key][()], dict(file[key].attrs)
    except OSError as error:
        raise InputError(f"{path} {DAMAGED}") from error
    if np.ndim(voxels) != len(axes) or not np.size(voxels):
        raise InputError(f"{path}: '{key}' has shape {np.shape(voxels)}, not ({', '.join(axes)}); replace it")
    return voxels, attributes


def with_geometry(voxels: np.ndarray, like: sitk.Image) -> sitk.Image:
    """An image of other voxels ``(z, y, x)`` on the grid of another."""
    image = sitk.GetImageFromArray(voxels)
    image.CopyInformation(like)
    return image
