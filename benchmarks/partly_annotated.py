"""Copies of labeled cases in which some classes were not annotated, for suites of `accuracy.py`.

Each class is missing in a third of the cases and each case lacks a class or two: its voxels are background in the label
file, and `"not_annotated"` of dataset.json names it. `link_naive` is for the row that learns from the same files as if
all were annotated.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ssl.data.not_annotated import KEY
from nnunet_ssl.files import read_json, write_json

SHARES = 3  # of the cases, one of them without a class


def partial_name(case: str) -> str:
    """The case that `add_partial` makes of another."""
    return f"{case}_partial"


def missing_classes(unit: int, classes: Sequence[str]) -> list[str]:
    """What was not annotated in the cases of a unit: class 0 in the units 0, 3, ..., class 1 in 1, 4, ..."""
    return [name for number, name in enumerate(classes) if number % SHARES == unit % SHARES]


def add_partial(raw: Path, cases: Sequence[str], cases_per_unit: int) -> None:
    """Adds copies of labeled cases without the labels of some classes, unless they are there; dataset.json last.

    Args:
        raw: a raw data set of one channel.
        cases: those of a unit side by side.
    """
    content = read_json(raw / "dataset.json", "make the data set again")
    if KEY in content:
        return
    labels, ending = content["labels"], content["file_ending"]
    classes = [name for name in labels if name != "background"]
    missing = {case: missing_classes(number // cases_per_unit, classes) for number, case in enumerate(cases)}
    for case, names in missing.items():
        shutil.copyfile(
            raw / "imagesTr" / f"{case}_0000{ending}", raw / "imagesTr" / f"{partial_name(case)}_0000{ending}"
        )
        whole = sitk.ReadImage(str(raw / "labelsTr" / f"{case}{ending}"))
        array = sitk.GetArrayFromImage(whole)
        array[np.isin(array, [labels[name] for name in names])] = labels["background"]
        partial = sitk.GetImageFromArray(array)
        partial.CopyInformation(whole)
        sitk.WriteImage(partial, str(raw / "labelsTr" / f"{partial_name(case)}{ending}"))
    declared = {partial_name(case): names for case, names in missing.items()}
    write_json(content | {KEY: declared, "numTraining": content["numTraining"] + len(cases)}, raw / "dataset.json")


def link_naive(preprocessed: Path, naive: Path) -> None:
    """Makes a folder with all that another of `nnUNet_preprocessed` has, but declares no missing class."""
    naive.mkdir(parents=True, exist_ok=True)
    content = read_json(preprocessed / "dataset.json", "prepare the suite again")
    write_json({key: value for key, value in content.items() if key != KEY}, naive / "dataset.json")
    for place in preprocessed.iterdir():
        if place.name != "dataset.json" and not (naive / place.name).exists():
            os.symlink(place, naive / place.name)
