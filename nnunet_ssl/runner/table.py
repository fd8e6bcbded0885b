"""Tables of what nnU-Net validated and of the test cases: mean and spread per method and class."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from math import isnan
from pathlib import Path
from typing import Any

from nnunetv2.evaluation.evaluate_predictions import key_to_label_or_region

from nnunet_ssl.data.origin import read_origin
from nnunet_ssl.data.raw import preprocessed_folder, read_dataset_json
from nnunet_ssl.files import read_json, write_json, write_text
from nnunet_ssl.results.evaluation import read_labels
from nnunet_ssl.results.measured import read_metrics, read_summary
from nnunet_ssl.runner.plan import Experiment, Run, require_own

TEST = {"dice": "Dice", "asd_mm": "ASD in mm, without the cases that miss a class,"}  # of `results.evaluation`


def make_table(experiment: Experiment, runs: Sequence[Run], classes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Mean and standard deviation (n - 1) over the finished runs of each method, of nnU-Net's validation Dice.

    A class that is in no reference and no prediction of a fold has no Dice there, and is left out of its mean. Where
    the test cases are asked for, runs and methods have a `test` of the same form for each measure of :data:`TEST`.

    Args:
        classes: names of the classes or regions with their labels, as in `dataset.json`.

    Raises:
        InputError: a finished run is of other cases, plans, length or overrides than the experiment's are now.
    """
    names = {labels: name for name, labels in classes.items()}
    runs_finished = [run for run in runs if experiment.state(run) == "finished"]
    require_own(experiment, runs_finished)  # folds may have changed since the runs began
    finished = []
    for run in runs_finished:
        origin = read_origin(experiment.folder(run))
        dice = {}
        for key, measures in read_summary(experiment.folder(run))["mean"].items():
            label = key_to_label_or_region(key)
            labels = label if isinstance(label, tuple) else (label,)
            dice[names.get(labels, key)] = None if isnan(measures["Dice"]) else measures["Dice"]
        present = [value for value in dice.values() if value is not None]
        finished.append(
            {"method": run.method, "fold": run.fold, "seed": run.seed}
            | {"overrides": origin.overrides, "origin": origin.facts()}
            | {"plans_saw_hidden_labels": _hidden_labels_seen(experiment.folder(run))}
            | {"dice": {"mean": statistics.fmean(present) if present else None, "per_class": dice}}
            | ({"test": _tested(experiment.folder(run))} if experiment.test else {})
        )
    methods = {}
    for method in sorted(dict.fromkeys(run.method for run in runs), key=lambda method: method != experiment.baseline):
        mine = [entry for entry in finished if entry["method"] == method]
        methods[method] = {
            "finished": len(mine),
            "runs": sum(run.method == method for run in runs),
            **_spreads([entry["dice"] for entry in mine], classes),
        }
        if experiment.test:
            methods[method]["test"] = {
                measure: _spreads([entry["test"][measure] for entry in mine], classes) for measure in TEST
            }
    return {
        "dataset": experiment.dataset,
        "configuration": experiment.configuration,
        "plans": experiment.plans,
        "folds": sorted({run.fold for run in runs}),
        "seeds": sorted({run.seed for run in runs if run.seed is not None}),
        "methods": methods,
        "runs": finished,
    }


def _hidden_labels_seen(folder: Path) -> int | None:
    """How many labels that the fold hides have shaped its plans, as its training wrote down; None if it did not."""
    file = folder / "debug.json"
    recorded = read_json(file, "train the fold again").get("plans_saw_hidden_labels") if file.is_file() else None
    return None if recorded is None else int(recorded)  # nnU-Net writes all values as text


def _tested(folder: Path) -> dict[str, Any]:
    metrics = read_metrics(folder)["metrics"]
    return {measure: {key: metrics[measure][key] for key in ("mean", "per_class")} for measure in TEST}


def _spreads(measured: Sequence[dict[str, Any]], classes: Iterable[str]) -> dict[str, Any]:
    return {
        "mean": _spread([values["mean"] for values in measured]),
        "per_class": {name: _spread([values["per_class"].get(name) for values in measured]) for name in classes},
    }


def _spread(values: Sequence[float | None]) -> dict[str, float | None]:
    present = [value for value in values if value is not None]
    return {
        "mean": statistics.fmean(present) if present else None,
        "std": statistics.stdev(present) if len(present) > 1 else None,
    }


def markdown(table: dict[str, Any]) -> str:
    """The table for people, its columns aligned; below it those of the test cases, if they were asked for."""
    seeds = f", seeds {' '.join(map(str, table['seeds']))}" if table["seeds"] else ""
    title = f"{table['dataset']} {table['configuration']} {table['plans']}, folds {' '.join(map(str, table['folds']))}"
    over = "mean ± standard deviation over runs"
    methods = table["methods"]
    text = f"{title}{seeds}: Dice of nnU-Net's validation, {over}\n\n{_rows(methods)}"
    for run in table["runs"]:
        if stopped := run["origin"].get("stopped"):
            text += f"\n{run['method']} fold {run['fold']}: {stopped}\n"
    for measure, name in TEST.items() if all("test" in row for row in methods.values()) else ():
        rows = {method: row | row["test"][measure] for method, row in methods.items()}
        text += f"\n{name} of the test cases, final checkpoints, {over}\n\n{_rows(rows)}"
    return text


WIDTH = 80  # of a terminal


def _rows(methods: dict[str, dict[str, Any]]) -> str:
    """A row for each method; where that is too wide, a row for each class, of so many methods as fit side by side."""

    def cell(spread: dict[str, float | None]) -> str:
        if spread["mean"] is None:
            return "-"
        return f"{spread['mean']:.3f}" + ("" if spread["std"] is None else f" ± {spread['std']:.3f}")

    classes = list(next(iter(methods.values()))["per_class"])
    lines = [["method", "mean", *classes, "runs"]]
    for method, row in methods.items():
        cells = [cell(row["mean"]), *(cell(row["per_class"][name]) for name in classes)]
        lines.append([method, *cells, f"{row['finished']} of {row['runs']}"])
    if _width(lines) <= WIDTH:
        return _aligned(lines)
    titles, *rest = [["class", *lines[0][1:]], *lines[1:]]
    tables, shown = [], rest[:1]
    for row in rest[1:]:
        if _width([*zip(titles, *shown, row, strict=True)]) > WIDTH:
            tables.append(shown)
            shown = []
        shown.append(row)
    return "\n".join(_aligned([*zip(titles, *some, strict=True)]) for some in [*tables, shown])


def _width(lines: Sequence[Sequence[str]]) -> int:
    """Of the table that these lines make."""
    return sum(max(map(len, column)) + 3 for column in zip(*lines, strict=True)) + 1


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table of a title line and others."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "".join(
        f"| {' | '.join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])} |\n"
        for line in [lines[0], rule, *lines[1:]]
    )


def write_table(experiment: Experiment, runs: Sequence[Run]) -> tuple[str, Path]:
    """Writes `nnunet_ssl_<configuration>.json` and `.md` into the dataset's results; returns the text and its file."""
    dataset_file = preprocessed_folder(experiment.dataset_id) / "dataset.json"
    classes, _ = read_labels(read_dataset_json(dataset_file), dataset_file)
    table = make_table(experiment, runs, classes)
    file = experiment.results / experiment.dataset / f"nnunet_ssl_{experiment.configuration}.md"
    write_json(table, file.with_suffix(".json"))
    write_text(file, text := markdown(table))
    return text, file
