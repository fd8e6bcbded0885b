"""What segments and numbers in label files mean in a dataset."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_ssl.annotation.drawn import Drawn
from nnunet_ssl.data.raw import listed
from nnunet_ssl.errors import InputError
from nnunet_ssl.results.evaluation import read_labels

BACKGROUND = "background"
SLICERS_NAME = r"Segment[_ ](\d{1,5})"  # of label N of a label map, as 3D Slicer calls it


@dataclass(frozen=True)
class Labels:
    """The labels of a `dataset.json`.

    Attributes:
        numbers: name -> the label that a voxel drawn as this gets; of a region it is that of nnU-Net's
            `regions_class_order`. In the order in which they are painted, the later over the earlier.
        within: name -> the labels that are part of it: one, or several of a region.
        ignore: the ignore label, if there is one.
    """

    numbers: dict[str, int]
    within: dict[str, tuple[int, ...]]
    ignore: int | None

    @classmethod
    def of(cls, dataset_json: dict[str, Any], file: Path) -> Labels:
        """Raises InputError if `dataset.json`, whose place is `file`, has no labels or no order of its regions."""
        classes, ignore = read_labels(dataset_json, file)
        numbers = {name: labels[0] for name, labels in classes.items()}
        if any(len(labels) > 1 for labels in classes.values()):
            order = dataset_json.get("regions_class_order")
            if not isinstance(order, list) or len(order) != len(classes):
                raise InputError(f"{file}: regions_class_order must list a label for each region: mend it.")
            numbers = dict(zip(classes, map(int, order), strict=True))
        numbers, within = {BACKGROUND: 0} | numbers, {BACKGROUND: (0,)} | classes
        if ignore is not None:
            numbers["ignore"], within["ignore"] = ignore, (ignore,)
        return cls(numbers, within, ignore)

    def known(self) -> set[int]:
        """All labels that a label map may hold."""
        return {label for labels in self.within.values() for label in labels}

    def meaning(self, drawn: str, given: dict[str, str]) -> int | None:
        """The label of what is drawn under a name or as a number; None if it has none.

        A name counts whatever its case; `Segment_2` is what 3D Slicer calls the label 2 of a label map.

        Args:
            given: what the user says of names, `--map`.
        """
        name = given.get(drawn, drawn).strip()
        if name in self.numbers:
            return self.numbers[name]
        alike = {number for own, number in self.numbers.items() if own.casefold() == name.casefold()}
        if len(alike) == 1:
            return alike.pop()
        slicers = re.fullmatch(SLICERS_NAME, name)
        number = slicers[1] if slicers else name
        return int(number) if re.fullmatch(r"\d{1,5}", number) and int(number) in self.known() else None

    def called(self, label: int) -> str:
        """`liver (1)`, of a region's label `core, tumor (2)`."""
        names = [name for name, labels in self.within.items() if label in labels]
        return f"{', '.join(names)} ({label})"


def read_given(texts: list[str], labels: Labels) -> dict[str, str]:
    """`--map NAME=LABEL` as a dictionary.

    Raises:
        InputError: one is of another form, or names a label that there is not.
    """
    given: dict[str, str] = {}
    for text in texts:
        name, sign, label = (part.strip() for part in text.rpartition("="))
        if not (sign and name and label):
            raise InputError(f"--map {text[:60]}: give NAME=LABEL, such as --map 'Left atrium=heart' or --map 255=1.")
        if labels.meaning(label, {}) is None:
            raise InputError(f"--map {text[:60]}: there is no label {label}; dataset.json has {_all(labels)}.")
        if given.get(name, label) != label:
            raise InputError(f"--map says both {given[name]} and {label} of {name}: keep one of them.")
        given[name] = label
    return given


def painted(
    drawn: Drawn, layers: np.ndarray, labels: Labels, given: dict[str, str], name: str
) -> tuple[np.ndarray, dict[str, tuple[int, int]]]:
    """One label map of the layers, int16 (z, y, x), and of each name drawn its label and its number of voxels.

    Args:
        layers: (L, z, y, x), on the scan's grid.
        name: how messages name the file.

    Raises:
        InputError: something that was drawn is no label of the dataset, or a voxel was drawn as two things that it
            cannot be at once.
    """
    masks: dict[str, np.ndarray] = {}
    for (layer, value), key in drawn.keys().items():
        mask = layers[layer] == value
        masks[key] = masks[key] | mask if key in masks else mask
    meanings = {key: labels.meaning(key, given) for key in masks}
    if unknown := [
        f"{key} ({masks[key].sum()} voxels)" for key, label in meanings.items() if label is None and masks[key].any()
    ]:
        what = "segment" if drawn.segments is not None else "label"
        raise InputError(
            f"{name}: the {what}(s) {listed(unknown, separator=', ')} stand for no label of the dataset, which has "
            f"{_all(labels)}; mend the file, or say what is meant with --map NAME=LABEL (background leaves it out)"
        )
    order = list(labels.numbers.values())
    result = np.zeros(layers.shape[1:], np.int16)
    found = {}
    for key in sorted(masks, key=lambda key: order.index(meanings[key]) if meanings[key] in order else -1):
        if meanings[key] is not None:
            result[masks[key]] = meanings[key]
            found[key] = (int(meanings[key]), int(masks[key].sum()))
    if drawn.segments is not None:
        _check_overlaps(masks, meanings, result, labels, given, name)
    return result, found


def _check_overlaps(
    masks: dict[str, np.ndarray], meanings: dict[str, int | None], result: np.ndarray, labels: Labels,
    given: dict[str, str], name: str,
) -> None:  # fmt: skip
    """Raises InputError where what was painted over a segment is no part of what the segment stands for."""
    regions = {number: labels.within[own] for own, number in labels.numbers.items()}
    for key, label in meanings.items():
        if not label:  # background, or empty
            continue
        outside = masks[key] & ~np.isin(result, regions.get(label, (label,)))
        if outside.any():
            over = labels.called(int(result[outside][0]))
            raise InputError(
                f"{name}: {outside.sum()} voxels are drawn as {key} and also as {over}, which is no part of it; "
                "draw them as one of the two"
            )


def _all(labels: Labels) -> str:
    return listed([f"{name} ({number})" for name, number in labels.numbers.items()], 20, ", ")
