"""Whether a label file can be taken in: what it says, where it stands, and what is known of its case."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunet_ssl.annotation.digest import SUGGESTED, label_digest
from nnunet_ssl.annotation.drawn import on_scan, read_drawn
from nnunet_ssl.annotation.naming import Labels, painted
from nnunet_ssl.data.previous_stage import digest_of
from nnunet_ssl.data.reading import read_file
from nnunet_ssl.data.space import align, grid_of
from nnunet_ssl.data.strays import PICTURES
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import check_case_ids, read_json, require_keys

if TYPE_CHECKING:
    from nnunetv2.imageio.base_reader_writer import BaseReaderWriter


@dataclass(frozen=True)
class Request:
    """A label file and the case that it is for; for a worker.

    Attributes:
        scan: the case's channel files.
        label: its label in `labelsTr`, if it is labeled already.
        role: what it is then, in words.
        reader: of the dataset.
        given: names and what the user says of them.
        draft: digest of the draft that was suggested, if one was.
    """

    case: str
    file: Path
    scan: tuple[Path, ...]
    label: Path | None
    role: str
    reader: type[BaseReaderWriter]
    labels: Labels
    given: dict[str, str]
    draft: str | None
    allow_empty: bool
    unchanged_too: bool

    @property
    def name(self) -> str:
        return f"case {self.case}, file {self.file.name}"


@dataclass(frozen=True)
class Examined:
    """What is known of a label file without a fault.

    Attributes:
        digest: of the label as it will be stored, see `label_digest`.
        source: sha256 of the file.
        found: name in the file -> label, number of voxels.
        is_labeled: the case has this very label already.
        is_draft: it is the draft that was suggested.
        notes: what was done to read it, in words.
        size: voxels of the scan without its border of zeros, (z, y, x).
        spacing: mm, (z, y, x).
    """

    digest: str
    source: str
    found: dict[str, tuple[int, int]] = field(default_factory=dict)
    is_labeled: bool = False
    is_draft: bool = False
    notes: tuple[str, ...] = ()
    size: tuple[int, ...] = ()
    spacing: tuple[float, ...] = ()


def read_drafts(folder: Path) -> dict[str, str]:
    """Case -> digest of its draft, of the `suggested.json` in a folder or beside it; empty if there is none.

    Raises:
        InputError: the file is damaged.
    """
    file = next(
        (place / SUGGESTED for place in (folder, folder.absolute().parent) if (place / SUGGESTED).is_file()), None
    )
    if file is None:
        return {}
    advice = "mend it, or move it away to take all labels as corrected"
    content = read_json(file, advice)
    require_keys(content, {"cases": (list,)}, file, advice=advice)
    drafts = {}
    for entry in content["cases"]:
        require_keys(entry, {"case": (str,)}, file, "cases[].", advice)
        if entry.get("draft_digest") is not None:
            require_keys(entry, {"draft_digest": (str,)}, file, "cases[].", advice)
            drafts[entry["case"]] = entry["draft_digest"]
    check_case_ids(drafts, file)
    return drafts


def examine(request: Request) -> Examined:
    """Reads a label file and its scan, and changes nothing.

    Raises:
        InputError: it cannot be taken in, in one line that names case and file and says what to do.
    """
    label, found, notes, (image, properties) = make_label(request)
    digest = label_digest(label)
    examined = Examined(
        digest=digest,
        source=digest_of(request.file),
        found=found,
        is_labeled=request.label is not None,
        is_draft=digest == request.draft,
        notes=tuple(notes),
        size=_size_of_content(image),
        spacing=tuple(float(size) for size in properties["spacing"]),
    )
    if request.label is not None:
        _check_same(request, label)
        return examined
    if not (label[label != request.labels.ignore] if request.labels.ignore is not None else label).any():
        if not request.allow_empty:
            raise InputError(f"{request.name}: holds no foreground; if the scan shows none, say --allow-empty")
    elif examined.is_draft and not request.unchanged_too:
        raise InputError(
            f"{request.name}: is the draft as it was suggested; correct it, move it out of the folder, or take it as "
            "it is with --unchanged-too"
        )
    return examined


def make_label(
    request: Request,
) -> tuple[np.ndarray, dict[str, tuple[int, int]], list[str], tuple[np.ndarray, dict[str, Any]]]:
    """The label of a request, int16 (z, y, x) as the dataset's reader has the scan; what was found in the file, by name
    its label and number of voxels; what was done to read it; and the scan (C, z, y, x) with its properties.

    Raises:
        InputError: scan or file have a fault, or do not stand in one space.
    """
    image, properties = _read_scan(request)
    scan = grid_of(image.shape[1:], properties)
    drawn = read_drawn(request.file, request.name)
    first = request.scan[0].name
    layers, notes = on_scan(drawn, scan, request.name, f"its scan {first}", first.lower().endswith(PICTURES))
    label, found = painted(drawn, layers, request.labels, request.given, request.name)
    return label, found, notes, (image, properties)


def _read_scan(request: Request) -> tuple[np.ndarray, dict[str, Any]]:
    """All channels, of which nnU-Net wants in `imagesTr` that they are stored alike."""
    images: list[np.ndarray] = []
    properties: dict[str, Any] = {}
    for file in request.scan:
        where = f"case {request.case}, file {file.name}"
        image, own = read_file(request.reader, file, where)
        properties = properties or own
        first = grid_of((images[0] if images else image).shape[1:], properties)
        _, difference = align(image, grid_of(image.shape[1:], own), first, where, request.scan[0].name)
        if difference.turned:
            raise InputError(
                f"{where}: is stored with other axes than {request.scan[0].name}, and nnU-Net takes the channels of "
                "labeled cases as they are stored; store it with the same ones"
            )
        images.append(image)
    return np.concatenate(images), properties


def _check_same(request: Request, label: np.ndarray) -> None:
    """Raises InputError if a labeled case has another label."""
    before, _ = read_file(request.reader, request.label, f"case {request.case}, file {request.label.name}", True)
    if before.shape[1:] != label.shape:
        raise InputError(f"case {request.case}, file {request.label}: does not fit its scan; mend or remove it")
    if other := int((before[0] != label).sum()):
        raise InputError(
            f"{request.name}: the case is {request.role}, and {other} voxels are other ones in {request.label}. To "
            "replace that label, change it there and preprocess anew; else move the file out of the folder"
        )


def _size_of_content(image: np.ndarray) -> tuple[int, ...]:
    """Voxels of (C, z, y, x) along each axis without the border of zeros that nnU-Net cuts off."""
    content = (image != 0).any(axis=0)
    sides = [np.flatnonzero(content.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    return tuple(int(side[-1] - side[0] + 1) if len(side) else 0 for side in sides)
