"""Accuracy records, read and checked: one JSON file for each training, as the accuracy benchmark writes them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_ssl.errors import InputError
from nnunet_ssl.files import is_clutter, is_plain_name, read_json, require_keys

ALL = "all"  # labels of the upper bound
SUPERVISED = "supervised"  # the baseline's name as a method
METRICS = ("dice", "jaccard", "hd95_mm", "asd_mm")
ROLES = ("train", "val", "hidden")  # of the labeled cases, in an origin: the same for all rows of one number of labels

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


_OPTIONAL: dict[str, tuple[type, ...]] = {
    "name": (str,), "overrides": (dict,), "definition": (dict,), "origin": (dict,), "learning_curve": (dict,),
    "largest_component": (dict,),
}  # fmt: skip
LARGEST = 2**53  # of a number in a record
ADVICE = "make the record again, or move it away"


@dataclass(frozen=True)
class Record:
    """One training and its figures on the test cases.

    Attributes:
        method: trainer without its prefix; `SUPERVISED` is the baseline.
        labeled: number of labeled cases or patients, or `ALL`.
        seed: None for a training of one's own that names none.
        wall_seconds: of training.
        metrics: for each of `METRICS` `mean`, `per_class` and `per_case` (case -> class -> value, None where the class
            is absent); Dice and Jaccard in 0..1, distances in mm. `missed` counts, by class, cases without a distance.
        name: of what the overrides or a change of the code make of the method.
        definition: what the figures of the suite rest on; records of two definitions are not compared.
        learning_curve: values per epoch, such as `pseudo_dice` by class.
        largest_component: `metrics` after nnU-Net's postprocessing.
        origin: what the training was made of, as `Origin.facts` gives it; older records have none.
    """

    file: Path
    suite: str
    method: str
    preset: str
    labeled: int | str
    seed: int | None
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
    largest_component: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, Any] = field(default_factory=dict)

    @property
    def dice(self) -> float:
        """Mean over classes of the mean over cases."""
        return self.metrics["dice"]["mean"]

    @property
    def postprocessed(self) -> float | None:
        """The same after nnU-Net's postprocessing; None where that was not measured."""
        return self.largest_component["metrics"]["dice"]["mean"] if self.largest_component else None


def read_records(folders: Sequence[Path]) -> list[Record]:
    """All records in folders and their subfolders, in the order of their paths. JSON of other kinds is left out.

    Raises:
        InputError: no folder or no record, a file that is not JSON, a record that lacks a key.
    """
    files: dict[str, Path] = {}  # each once, whatever links lead to it
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder: give the folders of the accuracy records.")
        for file in sorted(folder.rglob("*.json")):
            if not is_clutter(file.name):
                files.setdefault(os.path.realpath(file), file)
    records = [record for file in files.values() if (record := read_record(file))]
    if not records:
        raise InputError(
            f"No accuracy record and no trained fold in {', '.join(map(str, folders))}: give folders of records that "
            "benchmarks/accuracy.py writes, or nnUNet_results after nnunet_ssl run."
        )
    return records


def read_sources(folders: Sequence[Path]) -> tuple[list[Record], list[str]]:
    """Records of folders of both kinds, with lines that name what is left out: JSON records, or trained folds of an
    `nnUNet_results`.

    Raises:
        InputError: as `read_records` and `read_experiments`.
    """
    from nnunet_ssl.report.experiments import is_results_folder, read_experiments  # imports nnU-Net

    results = [folder for folder in folders if is_results_folder(folder)]
    others = [folder for folder in folders if folder not in results]
    records, left_out = read_records(others) if others else [], []
    for folder in results:
        found, lines = read_experiments(folder)
        records, left_out = [*records, *found], [*left_out, *lines]
    return records, left_out


def read_record(file: Path) -> Record | None:
    """The record of a file; None if it is JSON of another kind: without `suite`.

    Raises:
        InputError: not JSON, or a key is missing or has a value of another type.
    """
    content = read_json(file, ADVICE)
    if not isinstance(content, dict) or "suite" not in content:
        return None
    require_keys(content, _NEEDED, file, advice=ADVICE)
    optional = {key: content[key] for key in _OPTIONAL if content.get(key)}
    require_keys(optional, {key: _OPTIONAL[key] for key in optional}, file, advice=ADVICE)
    _check_metrics(content["metrics"], file, "metrics.")
    if postprocessed := optional.get("largest_component"):
        require_keys(postprocessed, {"metrics": (dict,)}, file, "largest_component.", ADVICE)
        _check_metrics(postprocessed["metrics"], file, "largest_component.metrics.")
    _check_numbers({key: content[key] for key, types in _NEEDED.items() if types != (int, str) and int in types}, file)
    _check_curves(optional.get("learning_curve", {}), file)
    _check_origin(optional.get("origin", {}), content["iterations"], file)
    if content["metrics"]["dice"]["mean"] is None:
        raise InputError(f"{file}: metrics.dice.mean is null: no test case has a class to measure.")
    if not all(map(is_plain_name, (content["suite"], content["method"], content["preset"], optional.get("name", "x")))):
        raise InputError(f"{file}: suite, method, preset and name must be plain names: {ADVICE}.")
    if isinstance(content["labeled"], str) and content["labeled"] != ALL:
        raise InputError(f"{file}: labeled is {content['labeled']!r}, not a number or {ALL!r}.")
    return Record(file=file, **{key: content[key] for key in _NEEDED}, **optional)


def _check_metrics(metrics: dict[str, Any], file: Path, where: str) -> None:
    require_keys(metrics, dict.fromkeys(METRICS, (dict,)), file, where, ADVICE)
    for metric in METRICS:
        _check_metric(metrics[metric], file, f"{where}{metric}.")
    if "missed" in metrics:
        require_keys(metrics, {"missed": (dict,)}, file, where, ADVICE)
        _check_numbers(metrics["missed"], file, f"{where}missed.", (int,))


def _check_metric(metric: dict[str, Any], file: Path, where: str) -> None:
    require_keys(metric, _METRIC, file, where, ADVICE)
    _check_numbers({"mean": metric["mean"]}, file, where)
    _check_numbers(metric["per_class"], file, f"{where}per_class.")
    require_keys(metric["per_case"], dict.fromkeys(metric["per_case"], (dict,)), file, f"{where}per_case.", ADVICE)
    for case, values in metric["per_case"].items():
        _check_numbers(values, file, f"{where}per_case.{case[:60]}.")


def _check_numbers(
    content: dict[str, Any], file: Path, where: str = "", types: tuple[type, ...] = (*_NUMBER, type(None))
) -> None:
    """Raises InputError unless all values are finite and of a size that means something; None may stand for none."""
    require_keys(content, dict.fromkeys(content, types), file, where, ADVICE)
    for key, value in content.items():
        if value is not None and not -LARGEST < value < LARGEST:
            raise InputError(f"{file}: {where}{key} is no finite number: {ADVICE}.")


def _check_origin(origin: dict[str, Any], iterations: int, file: Path) -> None:
    if not origin:
        return
    length = dict.fromkeys(("num_epochs", "num_iterations_per_epoch"), (int,))
    require_keys(origin, dict.fromkeys(ROLES, (dict,)) | length, file, "origin.", ADVICE)
    for role in ROLES:
        require_keys(origin[role], {"cases": (int,), "sha256": (str,)}, file, f"origin.{role}.", ADVICE)
    if (trained := origin["num_epochs"] * origin["num_iterations_per_epoch"]) != iterations:
        raise InputError(f"{file}: {iterations} iterations, but trained for {str(trained)[:20]} (origin): {ADVICE}.")


def _check_curves(curves: dict[str, Any], file: Path) -> None:
    require_keys(curves, dict.fromkeys(curves, (list,)), file, "learning_curve.", ADVICE)
    for epoch in curves.get("pseudo_dice", []):
        if epoch is not None:
            if not isinstance(epoch, list):
                raise InputError(f"{file}: learning_curve.pseudo_dice must hold a list for each epoch: {ADVICE}.")
            by_class = {str(number): value for number, value in enumerate(epoch)}
            _check_numbers(by_class, file, "learning_curve.pseudo_dice.")
