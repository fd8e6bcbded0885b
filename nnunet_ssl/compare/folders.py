"""Folders of predictions of one test set, measured and compared: what `compare.json` holds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunet_ssl.data.raw import listed, read_dataset_json
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import is_clutter
from nnunet_ssl.report.differences import METRICS, case_means, differences
from nnunet_ssl.report.significance import CONFIDENCE, LEVEL, RESAMPLES, SEED, holm
from nnunet_ssl.results.evaluation import evaluate_folders, find_dataset_json, read_labels, segmentations
from nnunet_ssl.results.seen import seen_cases


def compare_folders(
    reference: Path,
    baseline: Path,
    methods: Sequence[Path],
    dataset_json: Path | None = None,
    processes: int = 1,
    images: Path | None = None,
) -> dict[str, Any]:
    """Measures each folder as `evaluate_folders` does, and each method against the baseline, paired by case.

    Returns:
        What `compare.json` holds: the folders by name (`folders`, the baseline's first), `cases` and `classes`, what
        was `measured` of each folder (with `seen`, and `left_out`, its predictions without a reference), and for each
        of `methods` by metric the :func:`differences` of all classes and `per_class`. `p` of all classes' Dice is
        corrected for the number of methods in `corrected`.

    Raises:
        InputError: a folder is given twice, holds no or not all predictions, or other classes than another; what
            `evaluate_folders` raises; images are missing.
    """
    folders = _named([baseline, *methods], reference)
    dataset_json = _one_dataset_json(reference, list(folders.values()), dataset_json)
    dataset = read_dataset_json(dataset_json)
    classes, _ = read_labels(dataset, dataset_json)
    ending = dataset["file_ending"]
    cases = [file.name.removesuffix(ending) for file in segmentations(reference, ending)]
    left_out = _require_cases(folders, cases, ending)
    _require_images(images, cases, ending)
    measured = {}
    for name, folder in folders.items():
        measured[name] = evaluate_folders(reference, folder, dataset_json, processes, f"measuring {name}")
        measured[name] |= {"seen": seen_cases(folder, cases), "left_out": left_out[name]}
    first, *others = folders
    compared = {name: _compared(measured[name], measured[first], list(classes)) for name in others}
    tested = [entry["dice"] for entry in compared.values() if entry["dice"]["p"] is not None]
    for entry, p in zip(tested, holm([entry["p"] for entry in tested]), strict=True):
        entry["corrected"] = p
    return {
        "reference": str(reference),
        "dataset_json": str(dataset_json),
        "folders": {name: str(folder) for name, folder in folders.items()},
        "baseline": first,
        "cases": cases,
        "classes": list(classes),
        "level": LEVEL,
        "bootstrap": {"confidence": CONFIDENCE, "resamples": RESAMPLES, "seed": SEED},
        "measured": measured,
        "methods": compared,
    }


def _compared(method: dict[str, Any], baseline: dict[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    compared = {}
    for metric in METRICS:
        pair = [of["metrics"][metric]["per_case"] for of in (method, baseline)]
        compared[metric] = differences(metric, *map(case_means, pair)) | {
            "per_class": {
                name: differences(metric, *({case: of[case][name] for case in of} for of in pair)) for name in classes
            }
        }
    return compared


def _named(folders: Sequence[Path], reference: Path) -> dict[str, Path]:
    """The folders by what tells them apart: a name, or as much of the path as it takes."""
    seen = {reference.resolve(): reference}
    for folder in (reference, *folders):
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder.")
    for folder in folders:
        if (other := seen.setdefault(folder.resolve(), folder)) is not folder:
            raise InputError(f"{folder} is the same folder as {other}: give each folder once.")
    parts = [folder.resolve().parts for folder in folders]
    while len({path[-1] for path in parts}) == 1 and min(map(len, parts)) > 1:  # such as fold_0/test of each trainer
        parts = [path[:-1] for path in parts]
    for length in range(1, max(map(len, parts)) + 1):
        names = [os.sep.join(path[-length:]) for path in parts]
        if len(set(names)) == len(names):
            break
    return dict(zip(names, folders, strict=True))


def _one_dataset_json(reference: Path, folders: Sequence[Path], given: Path | None) -> Path:
    """The `dataset.json` of all folders. Raises InputError if they name other classes."""
    if given is not None:
        return given
    found = [find_dataset_json(reference, folder) for folder in folders]
    named = [(read_labels(content := read_dataset_json(file), file), content["file_ending"]) for file in found]
    for file, content in zip(found[1:], named[1:], strict=True):
        if content != named[0]:
            raise InputError(
                f"{found[0]} and {file} name other classes or file endings: name the right one with --dataset-json."
            )
    return found[0]


def _require_cases(folders: dict[str, Path], cases: Sequence[str], ending: str) -> dict[str, list[str]]:
    """The predictions of each folder that have no reference.

    Raises:
        InputError: a folder has no prediction at all or lacks some; all folders are named in one message.
    """
    faults, left_out = [], {}
    for name, folder in folders.items():
        found = [f.name.removesuffix(ending) for f in sorted(folder.iterdir()) if f.name.endswith(ending)]
        found = [case for case in found if not is_clutter(case)]
        left_out[name] = sorted({*found} - {*cases})
        if not found:
            faults.append(f"{folder} holds no {ending} file: give a folder of predictions")
        elif missing := sorted({*cases} - {*found}):
            faults.append(f"{folder} lacks {len(missing)} of {len(cases)} cases: {listed(missing, separator=', ')}")
    if faults:
        raise InputError("; ".join(faults) + ". Predict the same test set with all models.")
    return left_out


def _require_images(images: Path | None, cases: Sequence[str], ending: str) -> None:
    if images is None:
        return
    if not images.is_dir():
        raise InputError(f"--images {images} is not a folder.")
    if missing := [f"{case}_0000{ending}" for case in cases if not (images / f"{case}_0000{ending}").is_file()]:
        raise InputError(f"--images {images} lacks {listed(missing, separator=', ')}: give the folder imagesTs.")
