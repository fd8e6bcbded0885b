"""Finding and reading the files of a downloaded data set."""

import itertools
import os
import re
from collections.abc import Mapping
from pathlib import Path

import h5py
import nibabel
import numpy as np
import SimpleITK as sitk

from nnunet_ssl.conversion.notes import Note
from nnunet_ssl.data.headers import DAMAGED, DEFLATE, READ_ERRORS, SMALL, file_fault
from nnunet_ssl.data.raw import listed
from nnunet_ssl.data.space import ROUNDING, TOLERANCE
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import is_clutter

NIFTI = r"\.nii(\.gz)?"
FACTORS = ("scale", "offset")  # attributes of an h5 array that our readers apply
REPAIR = "nnunet_ssl repair"  # metadata of an image: what reading it has changed, and why, with ": " between
CORNERS = np.array(list(itertools.product((0, 1), repeat=3)))


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


def read_volume(path: Path, nan_is_fine: bool = False) -> sitk.Image:
    """Reads a scalar 3D image file with its geometry: by SimpleITK, or by nibabel what only that knows (NIfTI-2).

    Axes that are not quite orthogonal, which SimpleITK refuses, are made so, and the image says it under
    :data:`REPAIR`. With ``nan_is_fine`` NaN is no fault, and what the image has there is undefined.

    Raises:
        InputError: missing, unreadable, a fault of :func:`file_fault`, no scalar 3D volume, or axes so far from
            orthogonal that right angles move a corner by :data:`TOLERANCE` voxels.
    """
    require_whole(path, nan_is_fine)
    try:
        image = sitk.ReadImage(str(path))
    except (RuntimeError, MemoryError) as error:
        image = _read_with_nibabel(path, reason_of(error))
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(f"{path} is no scalar 3D volume (size {image.GetSize()}); replace it")
    return image


def _read_with_nibabel(path: Path, reason: str) -> sitk.Image:
    """A file that SimpleITK cannot read, for that reason."""
    try:
        stored = nibabel.load(path)
        voxels, affine, spacing = np.asanyarray(stored.dataobj), stored.affine, stored.header.get_zooms()
    except READ_ERRORS as error:
        raise InputError(f"{path} cannot be read ({reason}); replace it") from error
    if voxels.ndim != 3:
        raise InputError(f"{path} is no scalar 3D volume (size {voxels.shape}); replace it")
    axes = np.diag([-1, -1, 1]) @ affine[:3, :3]  # nibabel's x and y axes point the other way
    if not np.isfinite(affine).all() or np.linalg.matrix_rank(axes) < 3:
        raise InputError(f"{path} has a header that does not say where its voxels stand; mend it")
    left, _, right = np.linalg.svd(axes / np.linalg.norm(axes, axis=0))
    direction = left @ right  # the nearest axes that are orthogonal
    far_corner = np.array(voxels.shape) - 1
    turned = direction * np.linalg.norm(axes, axis=0)
    off = max(np.abs(np.linalg.solve(axes, (turned - axes) @ (far_corner * part))).max() for part in CORNERS)
    if off >= TOLERANCE:
        raise InputError(
            f"{path}: its axes are not orthogonal, which SimpleITK and nnU-Net's default reader refuse, and right "
            f"angles would move a corner by {off:.2g} voxels; resample it to a grid with right angles"
        )
    image = sitk.GetImageFromArray(voxels.T)
    image.SetSpacing([float(size) for size in spacing])
    image.SetOrigin((affine[:3, 3] * (-1, -1, 1)).tolist())
    image.SetDirection(direction.ravel().tolist())
    if off >= ROUNDING:
        image.SetMetaData(
            REPAIR, f"axes given right angles: SimpleITK reads no others, and no corner moves by {TOLERANCE:g} voxels"
        )
    return image


def require_whole(path: Path, nan_is_fine: bool = False) -> None:
    """Raises :class:`InputError` unless an image file holds what its header claims: all of it, and in this file."""
    if not path.is_file():
        raise InputError(f"{path} is missing; fetch it again")
    if path.name.endswith(".nrrd") and re.search(rb"(?im)^data ?file:", path.read_bytes().partition(b"\n\n")[0]):
        raise InputError(f"{path} says that its voxels are another file; replace it by a file that holds them")
    if fault := file_fault(path, nan_is_fine):
        raise InputError(f"{path} {fault}")


def reason_of(error: Exception) -> str:
    """The last line of what a library says, where it has its reason."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]


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


def rescaled_h5(images: Mapping[str, Path]) -> list[Note]:
    """A note on the h5 files by case whose ``image`` has attributes of :data:`FACTORS`, as a list of none or one.

    Files that cannot be read are passed over: they are reported when they are converted.
    """
    found = []
    for case, path in images.items():
        try:
            with h5py.File(path) as file:
                if set(FACTORS) & set(file["image"].attrs):
                    found.append(case)
        except (OSError, RuntimeError, KeyError, AttributeError):
            continue
    why = "the files hold integers, with the attributes scale and offset"
    cases = None if len(found) == len(images) else tuple(found)
    return [Note("gray levels restored as 32-bit floats", why, cases)] if found else []


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
