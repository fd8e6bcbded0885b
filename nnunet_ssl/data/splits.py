"""Folds: nnU-Net's ``splits_final.json``, in which a fold may carry a third list, ``"unlabeled"``.

These are cases of the labeled folder whose label the fold must not use, for studies with a fraction of the labels.
nnU-Net ignores the list, so its stock trainer on the same fold is the supervised baseline.
"""

import json
import math
import re
from fractions import Fraction
from pathlib import Path

import nnunetv2.paths
import numpy as np

from nnunet_ssl.data.raw import cases_with_label, preprocessed_folder, read_dataset_json
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import check_case_ids, read_json, write_text
from nnunet_ssl.locks import locked

FILE = "splits_final.json"
LISTS = ("train", "val", "unlabeled")
SEED = 12345  # nnU-Net's


def make_splits(
    cases: list[str], labeled: int | Fraction | None = None, seed: int = SEED, folds: int = 5
) -> list[dict[str, list[str]]]:
    """Cross-validation folds of ``cases``; with the default seed and 5 folds they are nnU-Net's own.

    ``labeled`` keeps that many (``int``) or that fraction (``Fraction``, of the fold's training cases, rounded to
    nearest, at least 1) in ``"train"`` and moves the others to ``"unlabeled"``. For one seed the smaller set lies
    inside the larger and the validation cases do not depend on ``labeled``. Without it no fold has the extra list.

    Raises ``InputError`` for fewer cases than folds or more labeled cases than a fold trains on.
    """
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    if not 0 <= seed < 2**32:
        raise InputError(f"--seed {str(seed)[:20]}: give a number from 0 to {2**32 - 1}.")
    if folds < 2 or len(cases) < folds:
        raise InputError(f"{len(cases)} labeled case(s) cannot be split into {folds} folds: choose 2 to {len(cases)}.")
    splits = []
    for fold, split in enumerate(generate_crossval_split(sorted(cases), seed=seed, n_splits=folds)):
        train, val = ([str(case) for case in split[key]] for key in ("train", "val"))
        if labeled is None:
            splits.append({"train": train, "val": val})
            continue
        count = labeled if isinstance(labeled, int) else max(1, math.floor(labeled * len(train) + Fraction(1, 2)))
        if count > len(train):
            raise InputError(f"--labeled {count}: fold {fold} has only {len(train)} training cases. Ask for fewer.")
        order = np.random.RandomState([seed, fold]).permutation(len(train))
        chosen = {train[i] for i in order[:count]}
        splits.append(
            {
                "train": [case for case in train if case in chosen],
                "val": val,
                "unlabeled": [case for case in train if case not in chosen],
            }
        )
    return splits


def parse_labeled(text: str) -> int | Fraction:
    """``"8"`` is 8 cases, ``"10%"`` is ``Fraction(1, 10)``. Raises ``InputError`` for anything else."""
    number, is_percent = text.strip().removesuffix("%").strip(), text.strip().endswith("%")
    pattern = r"\d{1,9}(\.\d{1,9})?" if is_percent else r"\d{1,9}"
    value = 0 if not re.fullmatch(pattern, number) else Fraction(number) / 100 if is_percent else int(number)
    if value <= 0 or (is_percent and value > 1):
        raise InputError(f"--labeled {text[:40]}: give a number of cases such as 8, or a share such as 10%.")
    return value


def read_splits(file: str | Path) -> list[dict[str, list[str]]]:
    """The folds of a ``splits_final.json``. Raises ``InputError`` if it is not a list of dicts of lists of ids."""
    file = Path(file)
    splits = read_json(file, "mend it, or remove it and run nnunet_ssl split")
    if not isinstance(splits, list) or not splits or not all(isinstance(split, dict) for split in splits):
        raise InputError(f'{file}: a list of folds is wanted, each {{"train": [ids], "val": [ids]}}.')
    for fold, split in enumerate(splits):
        for key in LISTS:
            if key not in split and key != "unlabeled":
                raise InputError(f'{file}: fold {fold} has no list "{key}". Add it.')
            ids = split.get(key, [])
            if not isinstance(ids, list) or not all(isinstance(case, str) for case in ids):
                raise InputError(f'{file}: "{key}" of fold {fold} must be a list of case ids in quotes.')
            check_case_ids(ids, file)
    return splits


def check_fold(split: dict[str, list[str]], file: str | Path = FILE) -> None:
    """Raises ``InputError`` when a case without a label is also trained or validated on; ``file`` is for the message.

    A case in both train and val is left to nnU-Net, which warns of it and goes on.
    """
    for first, second in (("train", "unlabeled"), ("val", "unlabeled")):
        if both := sorted(set(split.get(first, [])) & set(split.get(second, []))):
            some = ", ".join(both[:5]) + (f" and {len(both) - 5} more" if len(both) > 5 else "")
            raise InputError(f'{file}: {some} in both "{first}" and "{second}" of one fold. Remove from one of them.')


def unlabeled_of_fold(splits: list[dict[str, list[str]]], fold: int | str) -> list[str]:
    """The labeled-folder cases whose label ``fold`` must not use; none for fold ``"all"``, which uses every label.

    Raises ``InputError`` for a fold that is not there while others hide labels: nnU-Net would train it on a random 80 %
    of all cases, hidden ones included.
    """
    if fold == "all":
        return []
    if int(fold) < len(splits):
        return splits[int(fold)].get("unlabeled", [])
    if any(split.get("unlabeled") for split in splits):
        raise InputError(f"{FILE} has folds 0 to {len(splits) - 1} and hides labels in them: there is no fold {fold}.")
    return []


def write_splits(dataset_id: int, labeled: int | Fraction | None, seed: int, folds: int, force: bool) -> Path:
    """Write ``<preprocessed>/splits_final.json`` and return its path; an equal file is left as it is.

    Raises ``InputError`` when a different one is there and ``force`` is not set; it names the trained folds that would
    be no results of the new ones. Also when another process writes it.
    """
    base = preprocessed_folder(dataset_id)
    splits = make_splits(labeled_cases(dataset_id), labeled, seed, folds)
    file = base / FILE
    with locked(file):
        if not file.exists() or force:
            write_text(file, json.dumps(splits, indent=4))
        elif read_splits(file) != splits:
            from nnunet_ssl.data.trained import in_lines  # which reads splits

            trained = in_lines(base.name, splits)
            raise InputError(f"{file} exists and is different; --force replaces it.{trained and ' ' + trained}")
    return file


def labeled_cases(dataset_id: int) -> list[str]:
    """Ids of the labeled folder, sorted: of the raw dataset if it is on this machine, else of the preprocessed one."""
    base = preprocessed_folder(dataset_id)
    folder = base / "gt_segmentations"
    raw_root = nnunetv2.paths.nnUNet_raw.get()
    if raw_root and (Path(raw_root) / base.name / "labelsTr").is_dir():
        folder = Path(raw_root) / base.name / "labelsTr"
    dataset_file = base / "dataset.json"
    dataset_json = read_dataset_json(dataset_file, f"run nnUNetv2_plan_and_preprocess -d {dataset_id}")
    cases = cases_with_label(folder, dataset_json)
    if not cases and "dataset" not in dataset_json:
        ending = dataset_json["file_ending"]
        raise InputError(f"No labeled cases: {folder} is missing or has no file that ends in {ending}.")
    return cases
