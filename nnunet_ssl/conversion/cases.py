"""What a converter says of a data set: its cases, and what `dataset.json` will hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import SimpleITK as sitk

import nnunet_ssl
from nnunet_ssl.conversion.notes import Note
from nnunet_ssl.conversion.protocols import PARTS
from nnunet_ssl.data.raw import listed
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import check_case_ids, is_clutter

Spacing = tuple[float, float, float]
Fitted = tuple[sitk.Image, Note | None]  # a label on the grid of its image, and what was done to it


@dataclass(frozen=True)
class Case:
    """One case of the source.

    Attributes:
        id: its name in the raw dataset.
        part: ``labeled``, ``unlabeled``, ``test`` or ``validation``.
        images: what holds the image: one path per channel, or one for all of them.
        label: what holds the label; None for a case without one, and always for an unlabeled case.
        spacing: mm (z, y, x) that the user gives where a header is a placeholder.
    """

    id: str
    part: str
    images: tuple[Path, ...]
    label: Path | None
    spacing: Spacing | None = None

    def __post_init__(self) -> None:
        if self.part == "unlabeled" and self.label is not None:
            raise ValueError(f"Unlabeled case {self.id} has a label.")
        check_case_ids([self.id], self.images[0])


@dataclass(frozen=True)
class Conversion:
    """What a converter found in a source and how to read it.

    Attributes:
        converter: the name of the converter.
        channels: channel names for ``dataset.json``.
        labels: class name -> label value for ``dataset.json``.
        cases: all cases, in the order of the protocol.
        read_image: path -> scalar 3D image, or the list of them if the file holds several channels; raises
            :class:`InputError` (file and what to do) if it cannot.
        read_label: path -> label image in the values of ``labels``; raises the same. Readers must be picklable.
        source: what the source is (layout, path as the user gave it), for ``conversion.json``.
        protocol: how the cases were chosen, the options, for ``conversion.json``.
        notes: what is left out, repaired or assumed, as far as it is known before the files are read.
        name: the usual name of the dataset.
        fit_label: (label, image, case, votes) -> the label on the image's grid and what was done to it,
            for data sets whose label headers cannot be trusted; None if they can. ``votes`` counts what was done to the
            other labels, by ``Note.what``; at first it is None, and :class:`CannotTell` puts the case off until the
            others are through. Raises :class:`InputError` if it cannot.
        reader_writer: the nnU-Net class that reads the images, if not the one of the file ending.
    """

    converter: str
    channels: tuple[str, ...]
    labels: dict[str, int]
    cases: list[Case]
    read_image: Callable[[Path], sitk.Image]
    read_label: Callable[[Path], sitk.Image]
    source: dict[str, Any]
    protocol: dict[str, Any]
    notes: list[Note] = field(default_factory=list)
    name: str = ""
    fit_label: Callable[[sitk.Image, sitk.Image, Case, Counter | None], Fitted] | None = None
    reader_writer: str | None = None

    def ids(self, part: str) -> list[str]:
        """The ids of the cases of a part, in the order of the protocol."""
        return [case.id for case in self.cases if case.part == part]

    def fold(self) -> dict[str, list[str]] | None:
        """What fold 0 trains and validates on; None if the protocol does not say: nnU-Net divides the labeled cases."""
        validation = self.ids("validation")
        return {"train": self.ids("labeled"), "val": validation} if validation else None

    def provenance(self) -> dict[str, Any]:
        """The contents of ``conversion.json``."""
        return {
            "converter": self.converter,
            "version": nnunet_ssl.__version__,
            "source": self.source,
            "protocol": self.protocol,
            "notes": [note.record() for note in self.notes],
            **{part: self.ids(part) for part in PARTS if part != "validation" or self.ids(part)},
            "source_bytes": {case.id: _source_bytes(case) for case in self.cases},
        }


def pair_cases(parts: dict[str, list[str]], images: dict[str, Path], labels: dict[str, Path]) -> list[Case]:
    """The cases of a data set that keeps images and labels by id, one file each.

    Raises:
        InputError: a labeled, validation or test case has no label (no test case at all may have one).
    """
    needed = parts["labeled"] + parts.get("validation", [])
    needed += parts["test"] if any(name in labels for name in parts["test"]) else []
    if missing := [name for name in needed if name not in labels]:
        raise InputError(
            f"The source lacks the labels of {listed(missing, separator=', ')}. Add them, or go on with others: "
            "--labeled-list FILE."
        )
    return [
        Case(name, part, (images[name],), None if part == "unlabeled" else labels.get(name))
        for part, names in parts.items()
        for name in names
    ]


def _source_bytes(case: Case) -> dict[str, int]:
    paths = dict.fromkeys([*case.images, *([case.label] if case.label else [])])
    return {path.name: _bytes_of(path) for path in paths if path.exists()}


def _bytes_of(path: Path) -> int:
    files = [path] if path.is_file() else [f for f in path.iterdir() if f.is_file() and not is_clutter(f.name)]
    return sum(file.stat().st_size for file in files)
