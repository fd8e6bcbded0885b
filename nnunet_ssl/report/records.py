"""Accuracy records, read and checked: one JSON file for each training, as the accuracy benchmark writes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_ssl.errors import InputError

ALL = "all"  # labels of the upper bound
SUPERVISED = "supervised"  # the baseline's name as a method
METRICS = ("dice", "jaccard", "hd95_mm", "asd_mm")

_NUMBER = (int, float)
_NEEDED: dict[str, tuple[type, ...]] = {
    "suite": (str,),
    "method": (str,),
    "preset": (str,),
    "labeled": (int, str),
    "seed": (int,),
    "device": (str,),
    "iterations": (int,),
    "wall_seconds": (*_NUMBER, type(None)),
    "peak_memory_mb": (*_NUMBER, type(None)),
    "commit": (str, type(None)),
    "versions": (dict,),
    "command": (str,),
    "metrics": (dict,),
}
_METRIC: dict[str, tuple[type, ...]] = {"mean": (*_NUMBER, type(None)), "per_class": (dict,), "per_case": (dict,)}


@dataclass(frozen=True)
class Record:
    """One training and its figures on the test cases.

    Attributes:
        method: trainer without its prefix; `SUPERVISED` is the baseline.
        labeled: number of labeled cases or patients, or `ALL`.
        wall_seconds: of training.
        metrics: for each of `METRICS` `mean`, `per_class` and `per_case` (case -> class -> value, None where the class
            is absent); Dice and Jaccard in 0..1, distances in mm. `missed` counts, by class, cases without a distance.
        name: of what the overrides or a change of the code make of the method.
        definition: what the figures of the suite rest on; records of two definitions are not compared.
        learning_curve: values per epoch, such as `pseudo_dice` by class.
    """

    file: Path
    suite: str
    method: str
    preset: str
    labeled: int | str
    seed: int
    device: str
    iterations: int
    wall_seconds: float | None
    peak_memory_mb: float | None
    commit: str | None
    versions: dict[str, str]
    command: str
    metrics: dict[str, dict[str, Any]]
    name: str | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    definition: dict[str, Any] = field(default_factory=dict)
    learning_curve: dict[str, list] = field(default_factory=dict)

    @property
    def dice(self) -> float:
        """Mean over classes of the mean over cases."""
        return self.metrics["dice"]["mean"]


def read_records(folders: Sequence[Path]) -> list[Record]:
    """All records in folders and their subfolders, in the order of their paths. JSON of other kinds is left out.

    Raises:
        InputError: no folder or no record, a file that is not JSON, a record that lacks a key.
    """
    files: dict[Path, None] = {}
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder: give the folders of the accuracy records.")
        files |= dict.fromkeys(sorted(file.resolve() for file in folder.rglob("*.json")))
    records = [record for file in files if (record := read_record(file))]
    if not records:
        raise InputError(f"No accuracy record in {', '.join(map(str, folders))}: benchmarks/accuracy.py writes them.")
    return records


def read_record(file: Path) -> Record | None:
    """The record of a file; None if it is JSON of another kind: without `suite`.

    Raises:
        InputError: not JSON, or a key is missing or has a value of another type.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not valid JSON ({error}): make it again or move it away.") from None
    if not isinstance(content, dict) or "suite" not in content:
        return None
    _check(content, _NEEDED, file)
    _check(content["metrics"], dict.fromkeys(METRICS, (dict,)), file, "metrics.")
    for metric in METRICS:
        _check(content["metrics"][metric], _METRIC, file, f"metrics.{metric}.")
    if content["metrics"]["dice"]["mean"] is None:
        raise InputError(f"{file}: metrics.dice.mean is null: no test case has a class to measure.")
    if isinstance(content["labeled"], str) and content["labeled"] != ALL:
        raise InputError(f"{file}: labeled is {content['labeled']!r}, not a number or {ALL!r}.")
    optional = {key: content[key] for key in ("name", "overrides", "definition", "learning_curve") if content.get(key)}
    return Record(file=file, **{key: content[key] for key in _NEEDED}, **optional)


def _check(content: dict[str, Any], needed: dict[str, tuple[type, ...]], file: Path, where: str = "") -> None:
    for key, types in needed.items():
        if key not in content:
            raise InputError(f"{file} lacks the key {where}{key}: make the record again, or move it away.")
        value = content[key]
        if not isinstance(value, types) or isinstance(value, bool):
            raise InputError(f"{file}: {where}{key} is {json.dumps(value)[:60]}, of another type than records have.")
