"""Writes the page of every method, docs/methods/NAME.md, and their index: python docs/make_methods.py"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunet_ssl.catalog import Entry, mapping_text, page, read_catalog, table
from nnunet_ssl.files import write_text
from nnunet_ssl.report.comparison import LENGTH, gap_closed
from nnunet_ssl.report.records import ALL, SUPERVISED

FOLDER = Path(__file__).resolve().parent / "methods"
FIGURES = (
    "Final checkpoint, test cases; mean ± standard deviation over seeds. Largest component: Dice after nnU-Net's\n"
    "postprocessing; distances and the gap closed are without it."
)
RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"


def pages(results: Path = RESULTS) -> dict[str, str]:
    """The text of every page by file name."""
    runs = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(results.glob("*.json"))]
    entries = read_catalog()
    rows = [
        (f"[{entry.name}]({entry.name}.md)", entry.facts.paper, entry.facts.networks, entry.facts.cost,
         entry.facts.needs, entry.idea)
        for entry in entries
    ]
    index = (
        "# Methods\n\nMade by `python docs/make_methods.py`; `nnunet_ssl methods` shows the same in the terminal.\n\n"
        "Cost is that of a step, where 1 is a supervised step on the same patches, labeled and unlabeled. The stock\n"
        "trainer has the labeled ones alone: with equal batches its step costs 0.5.\n\n"
        + table(("method", "paper", "networks", "cost", "needs", "idea"), rows)
        + "\n"
    )
    return {"README.md": index} | {f"{entry.name}.md": page(entry, measured(entry, runs)) for entry in entries}


def measured(entry: Entry, runs: Sequence[dict[str, Any]]) -> str:
    """The section of our own figures: a table per suite, length and number of labels, between both bounds.

    Args:
        runs: records of `benchmarks/accuracy.py`. The bounds are the baseline without overrides of its own.
    """
    names = [trainer.name for trainer in entry.trainers]
    settings = {setting(run) for run in runs if run["method"] in names}
    if not settings:
        return "## Our figures\n\nNot measured yet."
    parts = ["## Our figures", FIGURES]
    for suite, labeled, iterations in sorted(settings, key=lambda s: (s[0], s[2], str(s[1]).rjust(9))):
        lower, upper = (
            [r for r in runs if setting(r) == (suite, number, iterations) and kind(r) == (SUPERVISED, "default")]
            for number in (labeled, ALL)
        )
        mine: dict[tuple[str, str], list[dict]] = {}
        for run in runs:
            if run["method"] in names and setting(run) == (suite, labeled, iterations):
                mine.setdefault(kind(run), []).append(run)
        rows = [line(f"{SUPERVISED}, {labeled} labeled", lower, lower, upper)]
        rows += [line(", ".join(key), mine[key], lower, upper) for key in sorted(mine)]
        rows += [line(f"{SUPERVISED}, all labeled", upper, lower, upper)]
        parts += [
            f"### {suite}, {labeled} labeled, {iterations} iterations",
            table(("training", "seeds", "Dice %", "largest component", "HD95 mm", "gap closed"), rows),
        ]
    return "\n\n".join(parts)


def setting(run: dict[str, Any]) -> tuple[str, Any, int]:
    """What runs must share to be compared."""
    return run["suite"], run["labeled"], run["iterations"]


def kind(run: dict[str, Any]) -> tuple[str, str]:
    """What runs must share to be seeds of one training: the method, and what is set of it."""
    own = {key: value for key, value in run["overrides"].items() if key not in LENGTH}
    return run["method"], " ".join(filter(None, (run["name"] or run["preset"], own and mapping_text(own))))


def line(name: str, runs: list[dict], lower: list[dict], upper: list[dict]) -> tuple[str, ...]:
    """A row of the table; the share of the gap between the bounds is that of the mean Dice."""
    if not runs:
        return name, "0", "not measured yet", "", "", ""
    low, mid, high = (statistics.fmean(dices) if (dices := values(r, "dice")) else None for r in (lower, runs, upper))
    bound = runs in (lower, upper)
    closed = None if bound or low is None or high is None else gap_closed(mid, low, high)
    gap = "" if closed is None else f"{closed:.0%}"
    seeds = " ".join(str(run["seed"]) for run in sorted(runs, key=lambda run: run["seed"]))
    postprocessed = [run["largest_component"] for run in runs if run.get("largest_component")]
    largest = spread(values(postprocessed, "dice"), 100, 2) if len(postprocessed) == len(runs) else ""
    return name, seeds, spread(values(runs, "dice"), 100, 2), largest, spread(values(runs, "hd95_mm"), 1, 2), gap


def values(runs: Sequence[dict[str, Any]], metric: str) -> list[float]:
    """The means of the runs that have one; a distance has none where no prediction held the class."""
    return [mean for run in runs if (mean := run["metrics"][metric]["mean"]) is not None]


def spread(numbers: list[float], scale: float, digits: int) -> str:
    """Mean, and standard deviation (n - 1) from two values on."""
    if not numbers:
        return ""
    text = f"{scale * statistics.fmean(numbers):.{digits}f}"
    return text if len(numbers) < 2 else f"{text} ± {scale * statistics.stdev(numbers):.{digits}f}"


def main() -> None:
    texts = pages()
    for name, text in texts.items():
        write_text(FOLDER / name, text)
    for file in FOLDER.glob("*.md"):
        if file.name not in texts:
            file.unlink()


if __name__ == "__main__":
    main()
