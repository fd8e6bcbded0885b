"""Scans whose header is a placeholder, so that nobody knows the size of their voxels: never a guess.

In a data set of scans with voxels of many sizes, some files have a header that no scanner wrote: voxels of 1 mm, axes
along those of the patient, the first voxel at 0 (or at 1). Their spacing is given by the user, or they are left out.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ssl.conversion.cases import Conversion, Spacing
from nnunet_ssl.conversion.notes import Note
from nnunet_ssl.data.headers import SPACING_RANGE
from nnunet_ssl.data.raw import listed
from nnunet_ssl.errors import InputError

WITH_HEADER = (".nii", ".nii.gz", ".nrrd")
PLACEHOLDER = "a placeholder as header (voxels of 1 mm that begin at the origin)"


def is_placeholder(header: sitk.Image | sitk.ImageFileReader) -> bool:
    """Whether a header of three axes or more says nothing: voxels of 1 mm that begin at 0, or one voxel from it."""
    direction = np.reshape(header.GetDirection(), (len(header.GetSpacing()),) * 2)
    return (
        np.array_equal(header.GetSpacing()[:3], (1, 1, 1))
        and np.array_equal(np.abs(direction[:3, :3]), np.eye(3))
        and max(map(abs, header.GetOrigin()[:3])) <= 1
    )


def with_known_spacings(conversion: "Conversion", table: Path | None = None, leave_out: bool = False) -> "Conversion":
    """The conversion with a spacing for every scan: that of its header, or one that the user gives.

    Scans with a placeholder as header are of unknown spacing if others of the data set have voxels of another size. If
    all scans have voxels of 1 mm, nothing tells whether that is true: it is taken as it stands, and said.

    Args:
        table: a file with a line ``CASE Z Y X`` (mm) for each of these scans.
        leave_out: leaves out those that are not in the table.

    Raises:
        InputError: faults of the table; scans of unknown spacing, unless they are left out; or no labeled case stays.
    """
    headers = {case.id: _headers(case.images) for case in conversion.cases}
    bare = [name for name, found in headers.items() if any(map(is_placeholder, found))]
    given = _read_table(table, bare) if table else {}
    rest = [name for name in bare if name not in given]
    notes = []
    if given:
        notes.append(Note("spacing given by --spacings", f"the scans have {PLACEHOLDER}", tuple(given)))
    sizes = {header.GetSpacing()[:3] for found in headers.values() for header in found}
    unknown = rest if sizes > {(1, 1, 1)} else []
    if rest and not unknown:
        why = f"the scans have {PLACEHOLDER}, and none of the data set has voxels of another size"
        notes.append(Note("spacing of 1 mm taken as it stands", why, tuple(rest)))
    if unknown and not leave_out:
        raise InputError(
            f"The spacing of {len(unknown)} scan(s) is unknown, for they have {PLACEHOLDER}: "
            f"{listed(unknown, separator=', ')}.\nGive it by --spacings FILE (lines CASE Z Y X in mm), or leave these "
            "scans out by --skip-unknown-spacing."
        )
    if unknown:
        notes.append(Note("left out, spacing unknown", f"the scans have {PLACEHOLDER}", tuple(unknown)))
    kept = [replace(case, spacing=given.get(case.id)) for case in conversion.cases if case.id not in unknown]
    if not any(case.part == "labeled" for case in kept):
        raise InputError("No labeled case is left without the scans of unknown spacing. Choose others, or give theirs.")
    protocol = conversion.protocol | ({"spacings given (z, y, x)": given} if given else {})
    return replace(conversion, cases=kept, protocol=protocol, notes=[*conversion.notes, *notes])


def give_spacing(volumes: Iterable[sitk.Image], spacing: Spacing) -> None:
    """Sets the spacing, mm (z, y, x), of the volumes whose own header is a placeholder."""
    for volume in volumes:
        if is_placeholder(volume):
            volume.SetSpacing(spacing[::-1])


def _headers(paths: Iterable[Path]) -> list[sitk.ImageFileReader]:
    """The headers of those files that have one and can be read: the others are reported when they are converted."""
    found = []
    for path in paths:
        if not path.name.endswith(WITH_HEADER):
            continue
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        try:
            reader.ReadImageInformation()
        except RuntimeError:
            continue
        if reader.GetDimension() >= 3:
            found.append(reader)
    return found


def _read_table(path: Path, bare: list[str]) -> dict[str, Spacing]:
    """The spacings, mm (z, y, x), of scans whose header is a placeholder."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read the spacings {path} ({getattr(error, 'strerror', error)}).") from error
    low, high = SPACING_RANGE
    given: dict[str, Spacing] = {}
    for number, line in enumerate(lines, 1):
        if not (fields := line.split()):
            continue
        try:
            name, spacing = fields[0], tuple(map(float, fields[1:]))
        except ValueError:
            spacing = ()
        if len(spacing) != 3 or not all(low <= size <= high for size in spacing):
            raise InputError(f"{path}, line {number}: {line[:60]!r} is no CASE Z Y X, a case and three sizes in mm.")
        if name in given:
            raise InputError(f"{path}, line {number}: {name} stands there twice. Keep one line of it.")
        given[name] = spacing
    if not given:
        raise InputError(f"{path} is empty. Write one line CASE Z Y X (mm) for each scan of unknown spacing.")
    if others := [name for name in given if name not in bare]:
        raise InputError(
            f"{path} names what is no scan of this conversion, or one whose file holds its spacing or whose data set "
            f"has one for all: {listed(others, separator=', ')}. Take these lines out."
        )
    return given
