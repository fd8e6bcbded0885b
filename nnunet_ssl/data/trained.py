"""The folds that nnU-Net's results folder holds, and what they have learned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nnunetv2.paths

from nnunet_ssl.data.origin import ORIGIN_FILE, data_differences, read_origin
from nnunet_ssl.data.raw import listed
from nnunet_ssl.errors import InputError

UNKNOWN = f"no {ORIGIN_FILE}, as of stock trainers and older versions"


def trained_folds(dataset: str, model: str = "*__*__*") -> dict[str, Path]:
    """The folders of a dataset's folds that have a checkpoint, by their path in `nnUNet_results`; its `seed_*` count.

    Args:
        dataset: folder name, Dataset018_Heart.
        model: pattern of TRAINER__PLANS__CONFIGURATION.
    """
    results = nnunetv2.paths.nnUNet_results.get()
    if not results:
        return {}
    roots = [Path(results), *sorted(Path(results).glob("seed_*"))]
    folders = [folder for root in roots for folder in sorted((root / dataset).glob(f"{model}/fold_*"))]
    return {
        folder.relative_to(results).as_posix(): folder for folder in folders if any(folder.glob("checkpoint_*.pth"))
    }


def estranged(dataset: str, splits: list[dict[str, list[str]]]) -> list[str]:
    """The trained folds that are no results of these folds, a line for each: with what it has learned that the fold now
    hides or validates on, with what else differs, or that it cannot be told.

    Fold "all" trains on every case, whatever the folds are, and is left out.
    """
    lines = []
    for name, folder in trained_folds(dataset).items():
        fold = folder.name.removeprefix("fold_")
        if fold.isdigit() and (reason := _estrangement(folder, splits[int(fold)] if int(fold) < len(splits) else None)):
            lines.append(f"{name}: {reason}")
    return lines


def in_lines(dataset: str, splits: list[dict[str, list[str]]]) -> str:
    """`estranged` for people; "" if there is nothing to tell."""
    if not nnunetv2.paths.nnUNet_results.get():
        return "nnUNet_results is not set: which trained folds it makes worthless cannot be told."
    if not (lines := estranged(dataset, splits)):
        return ""
    told = listed(lines, separator="\n  ")
    count = f"{len(lines)} trained fold(s)"
    return f"{count} are not, or not known to be, results of these folds; train them anew:\n  {told}"


def _estrangement(folder: Path, split: dict[str, list[str]] | None) -> str:
    """Why a trained fold is no result of a fold's lists, None for a fold that there is not; "" if it is one."""
    if split is None:
        return "there is no such fold"
    try:
        before = read_origin(folder)
    except InputError as error:
        return str(error)
    if before is None:
        return f"what it has learned cannot be told ({UNKNOWN})"
    lists = {"train": split["train"], "val": split["val"], "hidden": split.get("unlabeled", [])}
    now = replace(before, **{key: tuple(sorted(cases)) for key, cases in lists.items()})
    learned = {*before.learned}
    roles = {"hidden": learned & {*now.hidden}, "validated on": learned & {*now.val} - {*now.train}}
    leaks = [
        f"{len(cases)} label(s) that are {role} ({listed(sorted(cases), separator=', ')})"
        for role, cases in roles.items()
        if cases
    ]
    if leaks:
        return f"has learned {' and '.join(leaks)}"
    return "; ".join(data_differences(before, now))
