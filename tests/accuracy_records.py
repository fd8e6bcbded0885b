"""Accuracy records as the benchmark writes them, with stated Dice."""

import json
from pathlib import Path

CASES = ("a", "b", "c", "d", "e", "f")
SPREAD = (-0.05, -0.03, -0.01, 0.01, 0.03, 0.05)  # of the cases around the mean
LENGTH = {"num_epochs": 2, "num_iterations_per_epoch": 5, "num_val_iterations_per_epoch": 2, "save_every": 5}


def content(method="supervised", labeled=4, seed=0, dice=0.6, per_case=None, classes=("heart",), **changes) -> dict:
    """A record. `dice` is the mean, or `per_case` gives case -> class -> Dice; `postprocessed` is Dice after that."""
    of_cases = per_case or {c: dict.fromkeys(classes, dice + s) for c, s in zip(CASES, SPREAD, strict=True)}
    name, postprocessed = changes.pop("name", None), changes.pop("postprocessed", None)
    overrides = LENGTH | changes.pop("overrides", {})
    record = {
        "suite": "tiny", "method": method, "preset": "default", "labeled": labeled, "seed": seed, "device": "cpu",
        "iterations": 10, "wall_seconds": 60.0 if method == "supervised" else 150.0, "peak_memory_mb": None,
        "commit": "0123456789abcdef", "versions": {"torch": "2.5"}, "command": f"accuracy.py --seeds {seed}",
        "overrides": overrides, "name": name, "definition": {"name": "tiny", "units": 20, "patch": [8, 8, 8]},
        "metrics": {
            "dice": measure(of_cases, 1),
            "jaccard": measure(of_cases, 0.8),
            "hd95_mm": measure(of_cases, 10),
            "asd_mm": measure(of_cases, 2),
            "missed": dict.fromkeys(next(iter(of_cases.values())), 0),
        },
        "learning_curve": {"pseudo_dice": [[0.2] * len(classes), [None] * len(classes)]},
    }  # fmt: skip
    if postprocessed is not None:
        better = measure({case: dict.fromkeys(classes, postprocessed) for case in of_cases}, 1)
        record["largest_component"] = {"structures": [[1]], "metrics": record["metrics"] | {"dice": better}}
    return record | changes


def origin(**folds: str) -> dict:
    """What a record of ten iterations keeps of its origin; `train="2"` stands for other training cases."""
    lists = {role: {"cases": 4, "sha256": folds.get(role, "1")} for role in ("train", "val", "hidden", "unlabeled")}
    return lists | {"plans_fingerprint": "1", "num_epochs": 2, "num_iterations_per_epoch": 5}


def measure(dice: dict[str, dict[str, float | None]], factor: float) -> dict:
    per_case = {
        case: {name: None if value is None else factor * value for name, value in values.items()}
        for case, values in dice.items()
    }
    per_class = {name: mean([values[name] for values in per_case.values()]) for name in next(iter(dice.values()))}
    return {"mean": mean(list(per_class.values())), "per_class": per_class, "per_case": per_case}


def mean(values: list[float | None]) -> float:
    present = [value for value in values if value is not None]
    return sum(present) / len(present)


def write(folder: Path, *records: dict) -> Path:
    """Writes records with the file names of the benchmark, and returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for r in records:
        tag = r["name"] or r["preset"]
        row = f"{r['labeled']}_{r['method']}_{tag}_{r['iterations']}_seed{r['seed']}"
        (folder / f"{r['suite']}_{row}.json").write_text(json.dumps(r), encoding="utf-8")
    return folder
