"""Which cases of a reference the model that predicted them may have learned from, as far as that can be known.

The folder of a validation lies in the fold that made it. `nnUNetv2_predict` writes plans.json beside its predictions
but notes neither trainer nor fold: there every trained fold of these plans may be the model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunet_ssl.data.origin import read_origin
from nnunet_ssl.data.raw import listed
from nnunet_ssl.data.trained import trained_folds
from nnunet_ssl.files import is_plain_name, read_json

ARGUMENTS = "predict_from_raw_data_args.json"  # written by nnUNetv2_predict


def seen_cases(prediction: Path, cases: Sequence[str]) -> dict[str, Any]:
    """What the model that made a folder of predictions has learned of the cases.

    Returns:
        `certain`, whether the model is known; `models`, the one or all that it may be: path of the fold -> the cases
        whose label it has learned, None if that is not known. Without any model nothing is known.

    Raises:
        InputError: plans.json or an origin is damaged.
    """
    folders = _validated_fold(prediction)
    certain = bool(folders)
    folders = folders or _folds_of_plans(prediction)
    return {"certain": certain, "models": {name: _learned(folder, cases) for name, folder in folders.items()}}


def seen_in_words(seen: dict[str, Any]) -> list[str]:
    """Lines for people: warnings of learned cases, and what is not known."""
    models, certain = seen["models"], seen["certain"]
    if not models:
        return ["Which cases the model has learned is not known."]
    told = [
        f"Warning: {name} has learned {len(cases)} case(s) of these names: {listed(cases, separator=', ')}"
        for name, cases in models.items()
        if cases
    ]
    if unknown := [name for name, cases in models.items() if cases is None]:
        told.append(f"What was learned is not known of {listed(unknown, separator=', ')}")
    told = told or [f"None of these cases was learned by {next(iter(models)) if certain else 'any of them'}."]
    if len(told) > 10:
        told = [*told[:10], f"and {len(told) - 10} lines more, see the JSON"]
    which = f"Which model predicted is not noted; {len(models)} trained fold(s) have its plans."
    return told if certain else [which, *told]


def _validated_fold(prediction: Path) -> dict[str, Path]:
    folder = prediction.resolve()
    fold = folder.parent
    model = fold.parent.name
    if folder.name != "validation" or not re.fullmatch(r"fold_(\d+|all)", fold.name) or model.count("__") < 2:
        return {}
    return {f"{model}/{fold.name}": fold}


def _folds_of_plans(prediction: Path) -> dict[str, Path]:
    """The trained folds of the plans that lie beside predictions of `nnUNetv2_predict`."""
    file = prediction / "plans.json"
    if not file.is_file() or not (prediction / ARGUMENTS).is_file():
        return {}
    plans = read_json(file, f"remove it; then it is not known what the model of {prediction} has learned")
    names = [plans.get(key) for key in ("dataset_name", "plans_name")] if isinstance(plans, dict) else []
    if not names or not all(is_plain_name(name) and not re.search(r"[*?\[]", name) for name in names):
        return {}
    return trained_folds(names[0], f"*__{names[1]}__*")


def _learned(folder: Path, cases: Sequence[str]) -> list[str] | None:
    origin = read_origin(folder)
    if origin is None:
        return None
    learned = sorted({*cases} & {*origin.learned})
    return learned if learned or origin.complete else None
