"""The figures of the report: methods between their bounds, learning curves, numbers of labels, classes.

Every figure shows the baseline in gray and one method at a time or one row for each, with its name written beside it:
no legend has to be matched, and no color alone carries a meaning. Figures are as wide as the page.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nnunet_ssl.report.comparison import Comparison, Group, Section, percent
from nnunet_ssl.report.records import ALL, Record

# Of Okabe and Ito's palette for all kinds of color vision; the bounds are gray.
BETTER, OTHER = "#0072B2", "#D55E00"
INK, FAINT, GRID = "#222222", "#767676", "#E4E4E4"
WIDTH = 10.5  # inches
COLUMNS = 4
NARROWEST = 0.05  # Dice: a narrower axis would make much of little

STYLE = {
    "font.size": 10,
    "axes.edgecolor": "#BBBBBB",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
}


def gap_figure(comparison: Comparison) -> Figure | None:
    """Mean Dice of each method as a dot and of each seed as a ring, between both bounds; None without a method.

    Blue: better than the baseline by the paired test; orange: not; hollow: too few seeds to say.
    """
    if not comparison.methods:
        return None
    rows = comparison.rows
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.5 + 0.36 * len(rows)), layout="constrained", facecolor="white")
        axes = figure.add_subplot()
        for y, row in enumerate(rows):
            color = BETTER if row.better else OTHER
            seeds = [record.dice for record in row.group.records]
            if comparison.lower:
                axes.plot([comparison.lower.dice, row.group.dice], [y, y], color=color, linewidth=1.5, alpha=0.5)
            axes.plot(seeds, [y] * len(seeds), "o", color=color, markersize=6, markerfacecolor="none", alpha=0.8)
            filling = color if row.claim else "white"
            axes.plot(row.group.dice, y, "o", color=color, markersize=9, markerfacecolor=filling, markeredgewidth=1.6)
            text = f"{row.group.dice:.3f}" + ("" if row.closed is None else f"   {percent(row.closed)}")
            axes.annotate(
                text,
                (1, y),
                xycoords=("axes fraction", "data"),
                xytext=(8, 0),
                textcoords="offset points",
                va="center",
                annotation_clip=False,
            )
        bounds = [(comparison.lower, "-", "baseline"), (comparison.upper, "--", "all labels")]
        edges = [bound.dice + sign * (bound.spread or 0) for bound, *_ in bounds if bound for sign in (-1, 1)]
        axes.update_datalim([(x, 0) for x in edges])
        _widen(axes, NARROWEST)
        sides = _sides(axes, [bound for bound, *_ in bounds])
        for (bound, style, name), side in zip(bounds, sides, strict=True):
            if bound:
                axes.axvline(bound.dice, color=INK, linestyle=style, linewidth=1.4, zorder=1)
                spread = bound.spread or 0
                axes.axvspan(bound.dice - spread, bound.dice + spread, color=INK, alpha=0.07, linewidth=0)
                axes.annotate(
                    f"{name}\n{bound.dice:.3f}",
                    (bound.dice, 1),
                    xycoords=("data", "axes fraction"),
                    xytext=(0, 4),
                    textcoords="offset points",
                    ha=side,
                    va="bottom",
                )
        if comparison.lower and comparison.upper:
            axes.annotate(
                "Dice   gap closed",
                (1, 1),
                xycoords="axes fraction",
                xytext=(8, 4),
                textcoords="offset points",
                va="bottom",
                color=FAINT,
                annotation_clip=False,
            )
        axes.set_yticks(range(len(rows)), [row.group.label for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel("mean Dice over the test cases (more is better)")
        axes.grid(axis="x", color=GRID)
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", length=0)
    return figure


def curve_figure(comparison: Comparison) -> Figure | None:
    """nnU-Net's pseudo Dice on validation patches over the training, one panel a method; None without curves."""
    shown = [group for group in comparison.methods if any(pseudo_dice(record) for record in group.records)]
    if comparison.lower and not shown:
        shown = [comparison.lower] if any(pseudo_dice(record) for record in comparison.lower.records) else []
    if not shown:
        return None
    with rc_context(STYLE):
        figure, panels = _grid(len(shown), 2.0)
        for number, (axes, group) in enumerate(zip(panels, shown, strict=True)):
            if comparison.lower and group is not comparison.lower:
                _curve(axes, comparison.lower, FAINT, seeds=False)
                if number == 0:
                    axes.text(0.97, 0.05, "gray: baseline", color=FAINT, transform=axes.transAxes, ha="right")
            _curve(axes, group, BETTER, seeds=group.seeds > 1)
            axes.set_title(_wrapped(group.label))
            axes.grid(color=GRID)
        _name_axes(panels, "iteration", "pseudo Dice")
    return figure


def pseudo_dice(record: Record) -> list[float]:
    """Per epoch the mean over the classes, NaN where none has a value; empty if the record has no curve."""
    epochs = [
        [value for value in epoch or [] if value is not None] for epoch in record.learning_curve.get("pseudo_dice", [])
    ]
    return [float(np.mean(epoch)) if epoch else math.nan for epoch in epochs]


def label_figure(section: Section) -> Figure | None:
    """Dice against the number of labels, one panel a method; None unless one was trained with two numbers or more."""
    numbered = [comparison for comparison in section.comparisons if comparison.labeled != ALL]
    labels = dict.fromkeys(group.label for comparison in numbered for group in comparison.methods)
    found = {label: [(c, group) for c in numbered for group in c.methods if group.label == label] for label in labels}
    shown = {label: points for label, points in found.items() if len({c.labeled for c, _ in points}) > 1}
    if not shown:
        return None
    ticks = sorted({c.labeled for c in numbered})
    with rc_context(STYLE):
        figure, panels = _grid(len(shown), 2.3)
        for number, (axes, (label, points)) in enumerate(zip(panels, shown.items(), strict=True)):
            upper = points[0][0].upper
            if upper:
                axes.axhline(upper.dice, color=INK, linestyle="--", linewidth=1.2)
            baseline = [(c.labeled, c.lower) for c, _ in points if c.lower]
            _label_line(axes, baseline, FAINT, "s")
            _label_line(axes, [(c.labeled, group) for c, group in points], BETTER, "o")
            axes.set_title(_wrapped(label))
            axes.set_xscale("log")
            axes.set_xticks(ticks, [str(tick) for tick in ticks])
            axes.minorticks_off()
            axes.margins(x=0.12)
            axes.grid(color=GRID)
            if number == 0:
                axes.text(0.97, 0.05, "gray: baseline", color=FAINT, transform=axes.transAxes, ha="right")
                if upper:
                    axes.annotate(
                        "baseline, all labels",
                        (0.03, upper.dice),
                        xycoords=("axes fraction", "data"),
                        xytext=(0, -3),
                        textcoords="offset points",
                        va="top",
                    )
        _name_axes(panels, "number of labels", "mean Dice")
    return figure


def class_figure(comparison: Comparison) -> Figure | None:
    """Dice of every class as bars, one panel a class, its rows those of the table; None with one class."""
    groups = comparison.groups
    classes = groups[0].classes
    if len(classes) < 2 or not comparison.methods:
        return None
    columns = min(len(classes), COLUMNS)
    lines = math.ceil(len(classes) / columns)
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, lines * (0.7 + 0.26 * len(groups))), layout="constrained", facecolor="white")
        panels = figure.subplots(lines, columns, squeeze=False, sharey=True).flat
        for axes, name in zip(panels, classes, strict=False):
            values = [group.metric("dice", name) for group in groups]
            colors = [BETTER if group in comparison.methods else FAINT for group in groups]
            axes.barh(range(len(groups)), [value or 0 for value in values], color=colors, height=0.72)
            for y, value in enumerate(values):
                inside = value is not None and value > 0.3  # else the bar is too short for the number
                axes.text(
                    0.03 if inside else (value or 0) + 0.03,
                    y,
                    "–" if value is None else f"{value:.3f}",
                    va="center",
                    color="white" if inside else INK,
                    fontsize=9,
                )
            if comparison.lower and values[0] is not None:
                axes.axvline(values[0], color=INK, linewidth=1.2)
            axes.set_title(name.replace("_", " "))
            axes.set_xlim(0, 1)
            axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
            axes.set_yticks(range(len(groups)), [_bound_name(group, comparison) for group in groups])
            axes.tick_params(axis="y", length=0)
        for axes in figure.axes[len(classes) :]:
            axes.set_axis_off()
        figure.axes[0].invert_yaxis()
    return figure


def _bound_name(group: Group, comparison: Comparison) -> str:
    return "baseline" if group is comparison.lower else "all labels" if group is comparison.upper else group.label


def _grid(count: int, height: float) -> tuple[Figure, Sequence[Axes]]:
    """Panels that share their axes, four in a line."""
    lines = math.ceil(count / COLUMNS)
    figure = Figure(figsize=(WIDTH, 0.5 + lines * height), layout="constrained", facecolor="white")
    axes = list(figure.subplots(lines, COLUMNS, squeeze=False, sharex=True, sharey=True).flat)
    for unused in axes[count:]:
        unused.set_axis_off()
    return figure, axes[:count]


def _name_axes(panels: Sequence[Axes], x: str, y: str) -> None:
    """Names the axes of the lowest panel of each column and of the first of each line."""
    for number, axes in enumerate(panels):
        if number + COLUMNS >= len(panels):
            axes.tick_params(labelbottom=True)
            axes.set_xlabel(x)
        if number % COLUMNS == 0:
            axes.set_ylabel(y)


def _wrapped(label: str) -> str:
    return textwrap.fill(label, 26)


def _widen(axes: Axes, least: float) -> None:
    """Space beside the outermost values, and an axis of at least this length."""
    low, high = axes.dataLim.intervalx
    half = max(least, 1.16 * (high - low)) / 2
    axes.set_xlim((low + high) / 2 - half, (low + high) / 2 + half)


def _sides(axes: Axes, bounds: Sequence[Group | None]) -> list[str]:
    """How the names of two bounds are aligned: away from each other where they lie close."""
    if not all(bounds):
        return ["center"] * len(bounds)
    low, high = axes.get_xlim()
    lower, upper = (bound.dice for bound in bounds)
    if abs(upper - lower) > 0.12 * (high - low):
        return ["center", "center"]
    return ["right", "left"] if upper > lower else ["left", "right"]


def _curve(axes: Axes, group: Group, color: str, seeds: bool) -> None:
    """The mean over the seeds, and each seed as a thin line."""
    curves = [(record.iterations, curve) for record in group.records if (curve := pseudo_dice(record))]
    if not curves:
        return
    epochs = min(len(curve) for _, curve in curves)
    x = np.arange(1, epochs + 1) * curves[0][0] / max(len(curve) for _, curve in curves)
    values = np.array([curve[:epochs] for _, curve in curves])
    if seeds:
        axes.plot(x, values.T, color=color, linewidth=0.8, alpha=0.4)
    axes.plot(x, values.mean(axis=0), color=color, linewidth=1.8)


def _label_line(axes: Axes, points: Sequence[tuple[int, Group]], color: str, marker: str) -> None:
    points = sorted(points, key=lambda point: point[0])
    axes.plot([n for n, _ in points], [g.dice for _, g in points], color=color, marker=marker, linewidth=1.8)
    for n, group in points:
        seeds = [record.dice for record in group.records]
        axes.plot([n] * len(seeds), seeds, "o", color=color, markersize=5, markerfacecolor="none", alpha=0.6)
