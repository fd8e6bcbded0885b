"""What a run of the accuracy benchmark leaves: its measures, its versions, and the table of runs."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from nnunet_ssl.report.comparison import Group, Section, percent
from nnunet_ssl.report.records import METRICS


def read_measures(metrics: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Of the JSON of `nnunet_ssl evaluate` the figures that a record keeps; distances are read beside `missed`."""
    kept = {name: {key: metrics["metrics"][name][key] for key in ("mean", "per_class", "per_case")} for name in METRICS}
    return kept | {"missed": metrics["missed"]}


def commit() -> str | None:
    """The checkout's commit, `-dirty` if tracked files differ from it; None where there is no git, or no history."""
    if shutil.which("git") is None:
        return None
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
