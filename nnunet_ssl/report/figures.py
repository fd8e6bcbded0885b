"""The figures of the report: methods between their bounds, learning curves, numbers of labels, classes.

Every figure shows the baseline in gray and one method at a time or one row for each, with its name written beside it:
no legend has to be matched, and no color alone carries a meaning. What has a panel for each method or class is a list
of panels, which a page sets side by side as its width allows.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from nnunet_ssl.report.comparison import Comparison, Group, Row, Section, percent
from nnunet_ssl.report.records import ALL, Record
from nnunet_ssl.report.svg import Drawing, Scale, text_width

WIDTH, LINE = 860, 26  # of the figure of all methods, in pixels
PANEL = (250, 178)
NARROWEST = 0.05  # Dice: a narrower axis would make much of little
LONGEST = 40  # letters of a name beside a row


def gap_figure(comparison: Comparison) -> Drawing | None:
    """Mean Dice of each method as a dot and of each seed as a ring, between both bounds; None without a method.

    Blue: better than the baseline by the paired test; orange: not; hollow: too few seeds to say.
    """
    rows = comparison.rows
    if not rows:
        return None
    names = [_shortened(row.group.label, LONGEST) for row in rows]
    top, bottom = 46, 46 + LINE * len(rows)
    drawing = Drawing(WIDTH, bottom + 48, "Dice of each method between the bounds")
    bounds = [(comparison.lower, "", "baseline"), (comparison.upper, "5 4", "all labels")]
    values = [bound.dice + sign * (bound.spread or 0) for bound, *_ in bounds if bound for sign in (-1, 1)]
    values += [record.dice for row in rows for record in row.group.records]
    x = Scale(*_widened(values), 16 + max(map(text_width, names)), WIDTH - 130)
    _grid_lines(drawing, x, top, bottom)
    drawing.text((x.start + x.end) / 2, bottom + 36, "mean Dice over the test cases (more is better)", anchor="middle")
    for (bound, dash, name), anchor in zip(bounds, _sides(x, comparison), strict=True):
        if bound:
            at, spread = x(bound.dice), bound.spread or 0.0
            drawing.box(x(bound.dice - spread), top, x(bound.dice + spread) - x(bound.dice - spread), bottom - top,
                        "ink", 0.08)  # fmt: skip
            drawing.line([(at, top), (at, bottom)], "ink", 1.5, dash)
            for line, text in enumerate((name, f"{bound.dice:.3f}")):
                drawing.text(at, 14 + 16 * line, text, anchor=anchor)
    if all(bound for bound, *_ in bounds):
        drawing.text(x.end + 12, top - 12, "Dice, gap closed", "faint", size=11)
    for number, (row, name) in enumerate(zip(rows, names, strict=True)):
        _gap_row(drawing, x, top + LINE * (number + 0.5), row, name, comparison.lower)
    return drawing


def _gap_row(drawing: Drawing, x: Scale, y: float, row: Row, name: str, lower: Group | None) -> None:
    tone = "better" if row.better else "other"
    if lower:
        drawing.line([(x(lower.dice), y), (x(row.group.dice), y)], tone, 1.5, opacity=0.5)
    for record in row.group.records:
        title = f"{row.group.label}, seed {record.seed}: {record.dice:.3f}"
        drawing.dot(x(record.dice), y, 4, tone, filled=False, opacity=0.8, title=title)
    drawing.dot(x(row.group.dice), y, 5.5, tone, row.claim, title=f"{row.group.label}: {row.group.dice:.3f}")
    drawing.text(x.start - 10, y, name, anchor="end")
    closed = "" if row.closed is None else f", {percent(row.closed)}"
    drawing.text(x.end + 12, y, f"{row.group.dice:.3f}{closed}")


def curve_panels(comparison: Comparison) -> list[Drawing]:
    """nnU-Net's pseudo Dice on validation patches over the training, one panel a method; none without curves."""
    shown = [group for group in comparison.methods if _curves(group)]
    lower = comparison.lower
    if lower and not shown:
        shown = [lower] if _curves(lower) else []
    found = {id(group): _curves(group) for group in (*shown, *([lower] if lower else []))}
    everything = [point for curves in found.values() for curve in curves for point in curve]
    if not shown:
        return []
    values = [y for _, y in everything]
    last = max(x for x, _ in everything)
    panels = []
    for group in shown:
        panel, x, y = _panel(group.label, (0, last), (min(0.0, *values), max(values)), "iteration", "pseudo Dice")
        if lower and group is not lower and (curves := found[id(lower)]):
            _draw_curve(panel, x, y, curves, "faint")
        _draw_curve(panel, x, y, found[id(group)], "better")
        panels.append(panel)
    return panels


def pseudo_dice(record: Record) -> list[float]:
    """Per epoch the mean over the classes, NaN where none has a value; empty if the record has no curve."""
    epochs = [
        [value for value in epoch or [] if value is not None] for epoch in record.learning_curve.get("pseudo_dice", [])
    ]
    return [sum(epoch) / len(epoch) if epoch else math.nan for epoch in epochs]


def label_panels(section: Section) -> list[Drawing]:
    """Dice against the number of labels, one panel a method; none unless one was trained with two numbers or more.

    Cases that are all annotated in part (0 in full) are no number of labels.
    """
    numbered = [comparison for comparison in section.comparisons if comparison.labeled not in (0, ALL)]
    labels = dict.fromkeys(group.label for comparison in numbered for group in comparison.methods)
    found = {label: [(c, group) for c in numbered for group in c.methods if group.label == label] for label in labels}
    shown = {label: points for label, points in found.items() if len({c.labeled for c, _ in points}) > 1}
    values = [g.dice for points in shown.values() for c, group in points for g in (group, c.lower, c.upper) if g]
    values += [r.dice for points in shown.values() for _, group in points for r in group.records]
    ticks = sorted({math.log(c.labeled): str(c.labeled) for c in numbered}.items())
    panels = []
    for label, points in shown.items():
        span = (ticks[0][0] - 0.1, ticks[-1][0] + 0.1)
        panel, x, y = _panel(label, span, _widened(values), "number of labels", "mean Dice", ticks)
        if upper := points[0][0].upper:
            panel.line([(x.start, y(upper.dice)), (x.end, y(upper.dice))], "ink", 1.2, "5 4", title="all labels")
        _label_line(panel, x, y, [(c.labeled, c.lower) for c, _ in points if c.lower], "faint")
        _label_line(panel, x, y, [(c.labeled, group) for c, group in points], "better")
        panels.append(panel)
    return panels


def class_panels(comparison: Comparison) -> list[Drawing]:
    """Dice of every class as bars, one panel a class, its rows those of the table; none with one class."""
    groups = comparison.groups
    classes = groups[0].classes
    if len(classes) < 2 or not comparison.methods:
        return []
    panels = []
    for name in classes:
        panel = Drawing(PANEL[0] + 50, 30 + 20 * len(groups), f"Dice of {name}")
        panel.text(4, 12, name.replace("_", " "), size=13)
        x = Scale(0, 1, 130, panel.width - 46)
        for number, group in enumerate(groups):
            value, y = group.metric("dice", name), 36 + 20 * number
            tone = "better" if group in comparison.methods else "faint"
            shown = "–" if value is None else f"{value:.3f}"
            panel.box(x.start, y - 7, x(value or 0) - x.start, 14, tone, 0.75, f"{group.label}: {shown}")
            panel.text(x.start - 6, y, _shortened(_bound_name(group, comparison), 19), anchor="end", size=11)
            panel.text(x.end + 6, y, shown, size=11)
        baseline = comparison.lower.metric("dice", name) if comparison.lower else None
        if baseline is not None:
            panel.line([(x(baseline), 24), (x(baseline), panel.height - 4)], "ink")
        panels.append(panel)
    return panels


def _bound_name(group: Group, comparison: Comparison) -> str:
    return "baseline" if group is comparison.lower else "all labels" if group is comparison.upper else group.label


def _panel(
    label: str,
    across: tuple[float, float],
    up: tuple[float, float],
    x_name: str,
    y_name: str,
    x_ticks: Sequence[tuple[float, str]] = (),
) -> tuple[Drawing, Scale, Scale]:
    """A panel with its name and axes, and their scales."""
    panel = Drawing(*PANEL, label)
    width, height = PANEL
    for line, text in enumerate(textwrap.wrap(_shortened(label, 64), 34)):
        panel.text(6, 10 + 14 * line, text)
    x, y = Scale(*across, 44, width - 14), Scale(*up, height - 36, 40)
    for tick in y.ticks(4):
        panel.line([(x.start, y(tick)), (x.end, y(tick))], "grid")
        panel.text(x.start - 6, y(tick), f"{tick:g}", "faint", "end", 11)
    for tick, text in x_ticks or [(tick, f"{tick:g}") for tick in x.ticks(4)]:
        panel.line([(x(tick), y.start), (x(tick), y.start + 4)], "faint")
        panel.text(x(tick), y.start + 13, text, "faint", "middle", 11)
    panel.text((x.start + x.end) / 2, height - 8, x_name, "faint", "middle", 11)
    panel.text(x.start, 40 - 8, y_name, "faint", size=11)
    return panel, x, y


def _curves(group: Group) -> list[list[tuple[float, float]]]:
    """Iteration and pseudo Dice of each seed that has a curve, without the epochs that have no value."""
    found = []
    for record in group.records:
        values = pseudo_dice(record)
        step = record.iterations / max(len(values), 1)
        points = [((n + 1) * step, value) for n, value in enumerate(values) if not math.isnan(value)]
        found += [points] if points else []
    return found


def _draw_curve(panel: Drawing, x: Scale, y: Scale, curves: Sequence[Sequence[tuple[float, float]]], tone: str) -> None:
    """The mean over the seeds where all have a value, and each seed as a thin line."""
    by_seed = [dict(points) for points in curves]
    common = [at for at, _ in curves[0] if all(at in seed for seed in by_seed)]
    if len(curves) > 1:
        for points in curves:
            panel.line([(x(at), y(value)) for at, value in points], tone, 0.8, opacity=0.4)
    mean = [(x(at), y(sum(seed[at] for seed in by_seed) / len(by_seed))) for at in common]
    panel.line(mean, tone, 1.8, title="baseline" if tone == "faint" else "")


def _label_line(panel: Drawing, x: Scale, y: Scale, points: Sequence[tuple[int, Group]], tone: str) -> None:
    points = sorted(points, key=lambda point: point[0])
    panel.line([(x(math.log(n)), y(group.dice)) for n, group in points], tone, 1.8)
    for n, group in points:
        panel.dot(x(math.log(n)), y(group.dice), 3.5, tone, title=f"{n}: {group.dice:.3f}")
        for record in group.records:
            panel.dot(x(math.log(n)), y(record.dice), 3, tone, filled=False, opacity=0.6)


def _grid_lines(drawing: Drawing, x: Scale, top: float, bottom: float) -> None:
    for tick in x.ticks(9):
        drawing.line([(x(tick), top), (x(tick), bottom)], "grid")
        drawing.text(x(tick), bottom + 14, f"{tick:g}", "faint", "middle", 11)


def _widened(values: Sequence[float]) -> tuple[float, float]:
    """Space beside the outermost values, and an axis of at least :data:`NARROWEST`."""
    low, high = min(values), max(values)
    half = max(NARROWEST, 1.16 * (high - low)) / 2
    return (low + high) / 2 - half, (low + high) / 2 + half


def _sides(x: Scale, comparison: Comparison) -> list[str]:
    """How the names of both bounds are aligned: away from each other where they lie close."""
    lower, upper = comparison.lower, comparison.upper
    if not lower or not upper or abs(x(upper.dice) - x(lower.dice)) > text_width("baseline"):
        return ["middle", "middle"]
    return ["end", "start"] if upper.dice > lower.dice else ["start", "end"]


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
