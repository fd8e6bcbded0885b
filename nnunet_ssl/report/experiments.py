"""Records of one's own experiments: of the folds that lie trained in an `nnUNet_results` of `nnunet_ssl run`.

One record holds all folds of a method and seed. Of nnU-Net's validation it has each case of each fold; of the test
cases, which every fold predicts, the mean over the folds. Methods are compared on the folds that they share: for each
set of folds that some method and seed has, one section holds all that have these.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from nnunet_ssl.data.raw import listed, read_dataset_json
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import read_json
from nnunet_ssl.listing import BASELINE, PREFIX
from nnunet_ssl.report.comparison import LENGTH
from nnunet_ssl.report.records import ALL, METRICS, ROLES, SUPERVISED, Record
from nnunet_ssl.results.measured import read_metrics, read_summary
from nnunet_ssl.results.training_log import RUN_LOG, read_training

if TYPE_CHECKING:
    from nnunet_ssl.data.origin import Origin

PerCase = dict[str, dict[str, float | None]]


@dataclass(frozen=True)
class TrainedFold:
    """A finished fold: its seed and origin, and by metric, case and class what was measured of it."""

    folder: Path
    seed: int | None
    origin: Origin
    validation: dict[str, PerCase]
    test: dict[str, PerCase]  # empty if it was not measured

    @property
    def run(self) -> tuple:
        """What all folds of one record share."""
        o = self.origin
        own = {key: value for key, value in o.overrides.items() if key != "seed"}
        length = (o.num_epochs, o.num_iterations_per_epoch)
        return (o.trainer, self.seed, length, json.dumps(own, sort_keys=True), bool(o.hidden))


def is_results_folder(folder: Path) -> bool:
    """Whether a folder holds trained folds as `nnUNet_results` does."""
    return any(_fold_folders(folder))


def read_experiments(folder: Path) -> tuple[list[Record], list[str]]:
    """Records of all finished folds in an `nnUNet_results`, and lines that name those that are left out.

    Raises:
        InputError: no fold is finished, or the files of one are damaged.
    """
    experiments: dict[tuple[str, ...], list[TrainedFold]] = {}
    left_out = []
    for place in _fold_folders(folder):
        if reason := _unusable(place):
            left_out.append(f"{place.relative_to(folder)}: {reason}")
            continue
        fold = _read_fold(place, folder)
        o = fold.origin
        experiments.setdefault((o.dataset, o.configuration, o.plans, o.plans_fingerprint), []).append(fold)
    if not experiments:
        raise InputError(f"{folder} has no finished fold: {listed(left_out)}.")
    records = []
    for (dataset, configuration, plans, fingerprint), folds in experiments.items():
        definition = {"configuration": configuration, "plans": f"{plans} {fingerprint[:8]}"} | _shared_overrides(folds)
        for what in ("validation", "test"):
            measured = [fold for fold in folds if getattr(fold, what)]
            records += _records_of(f"{dataset} {configuration}", what, measured, definition)
    return records, left_out


def _shared_overrides(folds: Sequence[TrainedFold]) -> dict[str, Any]:
    """What all trainings of an experiment were told alike, beside length and seed: no part of a method's name."""
    first, *others = (fold.origin.overrides for fold in folds)
    keys = first.keys() - LENGTH - {"seed"}
    return {key: first[key] for key in sorted(keys) if all(key in o and o[key] == first[key] for o in others)}


def _fold_folders(folder: Path) -> Iterator[Path]:
    for root in (folder, *sorted(folder.glob("seed_*"))):
        yield from sorted(root.glob(f"Dataset*/{PREFIX}*__*__*/fold_*"))


def _unusable(place: Path) -> str:
    """Why a fold's folder is no result, "" if it is one."""
    from nnunet_ssl.data.origin import ORIGIN_FILE

    if place.name == "fold_all":
        return "trained on all cases, so that its validation is none"
    if not (place / ORIGIN_FILE).is_file():
        return f"of unknown origin: no {ORIGIN_FILE}"
    if not (place / "checkpoint_final.pth").is_file():
        return "not finished"
    return "" if read_summary(place) else "not validated"


def _read_fold(place: Path, results: Path) -> TrainedFold:
    from nnunet_ssl.data.origin import read_origin
    from nnunet_ssl.results.evaluation import read_labels

    origin = read_origin(place)
    root = place.parents[2].name
    in_seed_folder = place.parents[2] != results and root.removeprefix("seed_").isdigit()
    seed = int(root.removeprefix("seed_")) if in_seed_folder else origin.overrides.get("seed")
    dataset_json = place.parent / "dataset.json"
    dataset = read_dataset_json(dataset_json, "it lies beside the folds that nnU-Net trains")
    classes, _ = read_labels(dataset, dataset_json)
    metrics = read_metrics(place)
    test = {metric: metrics["metrics"][metric]["per_case"] for metric in METRICS} if metrics else {}
    return TrainedFold(place, seed, origin, _validation(place, classes, dataset["file_ending"]), test)


def _validation(place: Path, classes: dict[str, tuple[int, ...]], ending: str) -> dict[str, PerCase]:
    """Dice and Jaccard of nnU-Net's `summary.json`, None where the reference lacks the class; it has no distances."""
    keys = {str(labels[0]) if len(labels) == 1 else str(labels): name for name, labels in classes.items()}
    found: dict[str, PerCase] = {metric: {} for metric in METRICS}
    for entry in read_summary(place)["metric_per_case"]:
        case = Path(entry["prediction_file"]).name.removesuffix(ending)
        for metric in METRICS:
            found[metric][case] = dict.fromkeys(classes)
        for key, measures in entry["metrics"].items():
            there = measures["n_ref"] > 0 and not math.isnan(measures["Dice"])
            if key in keys and there:
                found["dice"][case][keys[key]] = measures["Dice"]
                found["jaccard"][case][keys[key]] = measures["IoU"]
    return found


def _records_of(suite: str, what: str, folds: Sequence[TrainedFold], definition: dict[str, Any]) -> list[Record]:
    """A record for each run and each set of folds that some run has, where the run has these."""
    runs: dict[tuple, dict[int, TrainedFold]] = {}
    for fold in folds:
        same = runs.setdefault(fold.run, {})
        if other := same.get(fold.origin.fold):
            raise InputError(f"{other.folder} and {fold.folder} are the same run: keep one of them.")
        same[fold.origin.fold] = fold
    hidden = any(fold.origin.hidden for fold in folds)
    records = []
    for chosen in sorted({tuple(sorted(of_run)) for of_run in runs.values()}, key=lambda found: (-len(found), found)):
        name = f"{suite}, {what} of fold{'s' if len(chosen) > 1 else ''} {' '.join(map(str, chosen))}"
        for of_run in runs.values():
            if {*chosen} <= of_run.keys():
                records.append(_record(name, what, [of_run[fold] for fold in chosen], definition, hidden))
    return records


def _record(suite: str, what: str, folds: Sequence[TrainedFold], definition: dict[str, Any], some_hide: bool) -> Record:
    """The record of a run's folds; `some_hide` tells whether other runs hide labels that this one has, perhaps."""
    origins = [fold.origin for fold in folds]
    first = origins[0]
    curves, seconds, peaks = zip(*(read_training(fold.folder) for fold in folds), strict=True)
    metrics = {metric: _measure([getattr(fold, what)[metric] for fold in folds]) for metric in METRICS}
    missed = dict.fromkeys(metrics["dice"]["per_class"], 0)
    if what == "test":
        for fold in folds:
            for case, values in fold.test["dice"].items():
                for name, value in values.items():
                    missed[name] += value is not None and fold.test["hd95_mm"][case][name] is None
        metrics["missed"] = missed
    if metrics["dice"]["mean"] is None:
        raise InputError(f"{folds[0].folder}: no case of its {what} has a class to measure.")
    method = first.trainer.removeprefix(PREFIX)
    labels = sorted({len(origin.train) for origin in origins})
    return Record(
        file=folds[0].folder,
        suite=suite,
        method=SUPERVISED if method == BASELINE else method,
        preset=first.overrides.get("preset", "default"),
        labeled=ALL if some_hide and not any(origin.hidden for origin in origins) else labels[-1],
        seed=folds[0].seed,
        device=_device(folds[0].folder),
        iterations=first.num_epochs * first.num_iterations_per_epoch,
        wall_seconds=None if None in seconds else sum(seconds),
        peak_memory_mb=max((peak for peak in peaks if peak is not None), default=None),
        commit=None,
        versions={"nnunet_ssl": first.version},
        command=_command(folds[0].folder),
        metrics=metrics,
        overrides={key: value for key, value in first.overrides.items() if key != "seed"},
        definition=definition | ({"labeled in a fold": list(map(str, labels))} if len(labels) > 1 else {}),
        learning_curve={"pseudo_dice": _mean_curve([curve["pseudo_dice"] for curve in curves])},
        origin={role: _together([getattr(origin, role) for origin in origins]) for role in ROLES},
    )


def _measure(folds: Sequence[PerCase]) -> dict[str, Any]:
    """A metric of several folds; a case that several have counts with its mean."""
    found: dict[str, dict[str, list[float | None]]] = {}
    for per_case in folds:
        for case, values in per_case.items():
            for name, value in values.items():
                found.setdefault(case, {}).setdefault(name, []).append(value)
    per_case = {case: {name: _mean(values) for name, values in classes.items()} for case, classes in found.items()}
    names = dict.fromkeys(name for values in per_case.values() for name in values)
    per_class = {name: _mean([values[name] for values in per_case.values()]) for name in names}
    return {"mean": _mean(list(per_class.values())), "per_class": per_class, "per_case": per_case}


def _mean_curve(curves: Sequence[list[list[float | None] | None]]) -> list[list[float | None]]:
    """By epoch and class the mean over the folds, as long as all have epochs."""
    return [
        [_mean(list(values)) for values in zip(*(epoch for epoch in epochs if epoch), strict=True)]
        for epochs in zip(*curves, strict=False)
    ]


def _together(lists: Sequence[Sequence[str]]) -> dict[str, Any]:
    digest = hashlib.sha256(json.dumps([list(cases) for cases in lists]).encode()).hexdigest()
    return {"cases": sum(map(len, lists)), "sha256": digest}


def _device(place: Path) -> str:
    """As nnU-Net wrote it down, without the number of the GPU."""
    file = place / "debug.json"
    noted = read_json(file, "train the fold again") if file.is_file() else {}
    return str(noted.get("device", "unknown")).split(":")[0]


def _command(place: Path) -> str:
    """The last command of `nnunet_ssl run` for this fold; "" if it was trained otherwise."""
    file = place / RUN_LOG
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    return next((line.removeprefix("=== ") for line in lines if line.startswith("=== ") and "_train" in line), "")


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return fmean(present) if present else None
