"""What a run of the accuracy benchmark leaves: its measures, what nnU-Net's logs tell of it, and the table of runs."""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from nnunet_ssl.report.comparison import Group, Section, percent
from nnunet_ssl.report.records import METRICS

NUMBER = r"(-?[\d.]+(?:e[+-]?\d+)?|nan|-?inf)"
CURVES = {
    "train_loss": re.compile(rf"train_loss {NUMBER}"),
    "val_loss": re.compile(rf"val_loss {NUMBER}"),
    "epoch_seconds": re.compile(rf"Epoch time: {NUMBER} s"),
}
EPOCH, PSEUDO_DICE = re.compile(r"Epoch (\d+) *$"), re.compile(r"Pseudo dice \[(.*)\]")
PEAK_MEMORY = re.compile(rf"peak memory: {NUMBER} MB")


def read_logs(texts: Sequence[str]) -> tuple[dict[str, list], float | None, float | None]:
    """What nnU-Net's training logs tell of a training that may have been cut off and resumed.

    Args:
        texts: the `training_log_*.txt` of a fold, the oldest first. An epoch that was trained again counts once.

    Returns:
        The learning curve (values per epoch: losses, `pseudo_dice` by class, seconds), the seconds of all epochs and
        the largest `peak memory` in MB; None for what the logs do not tell, and for values that are not finite.
    """
    epochs: dict[int, dict[str, Any]] = {}
    peaks = []
    for text in texts:
        current: dict[str, Any] = {}
        for line in text.splitlines():
            if match := EPOCH.search(line):
                current = epochs[int(match[1])] = {}
            elif match := PSEUDO_DICE.search(line):
                values = re.sub(r"np\.float\d+|[()]", "", match[1])  # NumPy 2 writes np.float32(0.9)
                current["pseudo_dice"] = [_finite(value) for value in values.split(",")]
            elif match := PEAK_MEMORY.search(line):
                peaks.append(float(match[1]))
            for name, pattern in CURVES.items():
                if match := pattern.search(line):
                    current[name] = _finite(match[1])
    ordered = [epochs[number] for number in sorted(epochs)]
    curve = {name: [epoch.get(name) for epoch in ordered] for name in (*CURVES, "pseudo_dice")}
    seconds = [value for value in curve["epoch_seconds"] if value is not None]
    return curve, sum(seconds) if seconds else None, max(peaks) if peaks else None


def read_training(fold: Path) -> tuple[dict[str, list], float | None, float | None]:
    """`read_logs` of a trained fold's folder."""
    logs = sorted(fold.glob("training_log_*.txt"), key=lambda file: file.stat().st_mtime)
    return read_logs([file.read_text(encoding="utf-8", errors="replace") for file in logs])


def read_measures(metrics: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Of the JSON of `nnunet_ssl evaluate` the figures that a record keeps; distances are read beside `missed`."""
    kept = {name: {key: metrics["metrics"][name][key] for key in ("mean", "per_class", "per_case")} for name in METRICS}
    return kept | {"missed": metrics["missed"]}


def commit() -> str | None:
    """The checkout's commit, `-dirty` if tracked files differ from it; None where there is no git."""
    head, changes = (
        subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, encoding="utf-8")
        for arguments in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
    )
    return None if head.returncode else head.stdout.strip() + ("-dirty" if changes.stdout.strip() else "")


def versions() -> dict[str, str]:
    """What the figures depend on."""
    packages = {"torch": "torch", "nnunetv2": "nnunetv2", "nnunet_ssl": "nnunet-ssl"}
    return {"python": platform.python_version()} | {name: version(package) for name, package in packages.items()}


def make_table(section: Section) -> Table:
    """Means over the seeds, the standard deviation (n - 1) of Dice; the upper bound is the last row.

    "Largest comp." is Dice after nnU-Net's postprocessing; gap and distances are without it. A suite that names rare
    classes has their mean Dice and the share of them that is found at all in place of these and of the memory.
    """
    rare = section.definition.get("rare", ())
    table = Table(title=f"{section.title}, test cases", box=SIMPLE)
    usual = ("largest comp.", "HD95 mm", "gap closed", "training s", "peak MB")
    measures = ("rare", "found", "closed", "training s") if rare else usual
    for column in ("method", "labeled", "seeds", "Dice", *measures):
        table.add_column(column, no_wrap=column == "Dice", justify="left" if column == "method" else "right")
    for comparison in section.comparisons:
        if comparison.lower:
            table.add_row(*_cells(comparison.lower, rare))
        for row in comparison.rows:
            table.add_row(*_cells(row.group, rare, row.closed))
    if upper := section.comparisons[-1].upper:
        table.add_row(*_cells(upper, rare))
    return table


def _cells(group: Group, rare: Sequence[str], closed: float | None = None) -> tuple[str, ...]:
    gap = "-" if closed is None else percent(closed)
    seconds, memory = (_cell(next(iter(of.values()), None), ".0f") for of in (group.seconds, group.memory))
    if rare:
        found = group.found(rare)
        measures = (_cell(group.dice_of(rare), ".4f"), "-" if found is None else percent(found), gap, seconds)
    else:
        distance = _cell(group.metric("hd95_mm"), ".2f")
        measures = (_cell(group.postprocessed, ".4f"), distance, gap, seconds, memory)
    return (
        group.label,
        str(group.first.labeled),
        str(group.seeds),
        f"{group.dice:.4f}" + ("" if group.spread is None else f" ± {group.spread:.4f}"),
        *measures,
    )


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def _finite(text: str) -> float | None:
    value = float(text)
    return value if abs(value) < float("inf") else None  # False for NaN too
