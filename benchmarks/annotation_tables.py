"""What the annotation benchmark prints and draws of its records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

RANDOM = "random"
FIRST = 5  # what `nnunet_ssl suggest` suggests by default
Record = dict[str, Any]


def write_tables(records: Sequence[Record]) -> None:
    """Prints what the strategies brought, and how well they foretell which drafts are bad."""
    console = Console(highlight=False)
    console.width = max(console.width, 100)  # in a log, too, no cell is cut
    if len(records[0]["rounds"]) > 1:
        console.print(_gains(records))
    if any(looks(records)):
        console.print(_forecasts(records))


def curve(records: Iterable[Record]) -> np.ndarray:
    """Mean Dice of each round, over the seeds of one strategy; several draws of a seed count as one."""
    by_seed: dict[int, list[list[float]]] = {}
    for record in records:
        by_seed.setdefault(record["seed"], []).append([each["dice"] for each in record["rounds"]])
    return np.mean([np.mean(draws, 0) for draws in by_seed.values()], 0)


def gained(records: Sequence[Record], strategy: str) -> dict[int, float]:
    """By seed the mean Dice of the rounds after the first, minus that of random with the same beginning."""
    found = {}
    for record in of_strategy(records, strategy):
        others = [other for other in of_strategy(records, RANDOM) if other["seed"] == record["seed"]]
        if others:
            found[record["seed"]] = float((curve([record]) - curve(others))[1:].mean())
    return found


def looks(records: Iterable[Record]) -> list[dict[str, dict[str, float]]]:
    """The scored pools, each once: the strategies of a seed share their first."""
    entries = [(record["seed"], entry) for record in records for entry in record["rounds"] if "pool" in entry]
    pools = {(seed, *entry["labeled"]): entry["pool"] for seed, entry in entries}
    return [*pools.values()]


def forecast(pool: dict[str, dict[str, float]], name: str) -> tuple[float, float]:
    """Of an order of a pool: its rank correlation with 1 - Dice, and by how much its first `FIRST` are below the mean.

    1 is the order of the true errors, 0 is chance.
    """
    errors = np.array([1 - of["dice"] for of in pool.values()])
    ranks = np.array([of[name] for of in pool.values()])
    return float(spearmanr(-ranks, errors).statistic), float(errors[ranks <= FIRST].mean() - errors.mean())


def of_strategy(records: Iterable[Record], strategy: str) -> list[Record]:
    """The records of one strategy."""
    return [record for record in records if record["strategy"] == strategy]


def write_figure(records: Sequence[Record], file: Path) -> None:
    """Dice against the number of labeled cases; without rounds that of the drafts against their place in each order."""
    figure = Figure(figsize=(6.4, 4) if len(records[0]["rounds"]) > 1 else (10, 3), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(_title(records), fontsize="medium")
    if len(records[0]["rounds"]) > 1:
        _draw_curves(records, figure)
    else:
        _draw_drafts(looks(records), figure)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)


def _draw_curves(records: Sequence[Record], figure: Figure) -> None:
    """Each run thin, the mean of a strategy thick."""
    axes = figure.add_subplot()
    numbers = [len(each["labeled"]) for each in records[0]["rounds"]]
    for number, strategy in enumerate(_strategies(records)):
        color = "0.45" if strategy == RANDOM else f"C{number - 1}"
        runs = of_strategy(records, strategy)
        for run in runs:
            axes.plot(numbers, [each["dice"] for each in run["rounds"]], color=color, linewidth=0.7, alpha=0.5)
        axes.plot(numbers, curve(runs), color=color, linewidth=2.2, marker="o", label=f"{strategy} ({len(runs)} runs)")
    axes.set(xlabel="labeled cases", ylabel="Dice, test cases", xticks=numbers)
    axes.grid(alpha=0.3)
    axes.legend()


def _draw_drafts(pools: Sequence[dict[str, dict[str, float]]], figure: Figure) -> None:
    names = _orders(pools)
    for axes, name in zip(figure.subplots(1, len(names), sharey=True), names, strict=True):
        for pool in pools:
            axes.plot([of[name] for of in pool.values()], [of["dice"] for of in pool.values()], ".", color="C0")
        mean = np.mean([forecast(pool, name)[0] for pool in pools])
        axes.set(xlabel="place in the order", title=f"{name}: {mean:+.2f}")
        axes.title.set_size("small")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("Dice of the draft")


def _gains(records: Sequence[Record]) -> Table:
    table = Table(title=f"{_title(records)}: Dice on test cases by labeled cases", box=SIMPLE)
    numbers = [str(len(each["labeled"])) for each in records[0]["rounds"]]
    for column in ("strategy", "runs", *numbers, "mean after first", "minus random", "by seed"):
        table.add_column(column, justify="left" if column == "strategy" else "right", no_wrap=True)
    for strategy in _strategies(records):
        runs = of_strategy(records, strategy)
        means, gain = curve(runs), gained(records, strategy)
        own = strategy == RANDOM
        table.add_row(
            *(strategy, str(len(runs)), *(f"{value:.4f}" for value in means), f"{means[1:].mean():.4f}"),
            "-" if own or not gain else f"{np.mean([*gain.values()]):+.4f}",
            "-" if own else " ".join(f"{value:+.4f}" for value in gain.values()),
        )
    return table


def _forecasts(records: Sequence[Record]) -> Table:
    pools = looks(records)
    title = f"{_title(records)}: which drafts are bad, by {len(pools)} network{'s' * (len(pools) > 1)}"
    table = Table(title=title, box=SIMPLE)
    for column in (
        "order by",
        "rank correlation",
        "each",
        f"1 - Dice of the first {FIRST}, minus mean",
    ):
        table.add_column(column, justify="left" if column == "order by" else "right", no_wrap=True)
    for name in _orders(pools):
        found = np.array([forecast(pool, name) for pool in pools])
        each = " ".join(f"{value:+.2f}" for value in found[:, 0])
        table.add_row(name, f"{found[:, 0].mean():+.2f}", each, f"{found[:, 1].mean():+.3f}")
    return table


def _orders(pools: Sequence[dict[str, dict[str, float]]]) -> list[str]:
    return [key for key in next(iter(pools[0].values())) if key != "dice"]


def _strategies(records: Iterable[Record]) -> list[str]:
    return list(dict.fromkeys(record["strategy"] for record in records))


def _title(records: Sequence[Record]) -> str:
    first = records[0]
    return f"{first['suite']}, {first['method']}, {first['iterations']} iterations"
