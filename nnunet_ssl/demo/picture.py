"""A picture that compares predictions with the reference, one row per test case."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nnunet_ssl.files import write_aside
from nnunet_ssl.names import drawn
from nnunet_ssl.pictures import COLORS, fill, outline, png_of

_PANEL_INCHES, _LINE_INCHES = 2.6, 0.15
_INK, _FAINT = "#222222", "#777777"


@dataclass(frozen=True)
class Row:
    """One slice of one case: gray values and label maps ``(y, x)``, and the Dice of each prediction's whole case.

    Without gray values (None) the label maps stand on black.
    """

    case: str
    image: np.ndarray | None
    reference: np.ndarray
    predictions: dict[str, np.ndarray]
    dice: dict[str, dict[str, float | None]]


def comparison_picture(path: Path, rows: list[Row], classes: dict[str, tuple[int, ...]], title: str = "") -> None:
    """Writes a PNG: per row the image, the reference and each prediction, with the Dice per class underneath.

    ``classes`` names the classes and their labels (several for a region); all rows have the same predictions, and all
    or none an image. In the
    prediction panels the reference's outline is a white line under the prediction's, seen where the two differ. There
    are colors for seven classes.
    """
    columns = [*(["Image"] if rows[0].image is not None else []), "Reference", *rows[0].predictions]
    colors = {name: COLORS[i % len(COLORS)] for i, name in enumerate(classes)}
    heights = [_PANEL_INCHES * row.reference.shape[0] / row.reference.shape[1] for row in rows]
    gap, head, foot = 0.38, 0.75 if title else 0.4, 0.5
    margin = 0.2 + _LINE_INCHES * max(1 + row.case.count("\n") for row in rows)
    figure = Figure(
        figsize=(margin + len(columns) * (_PANEL_INCHES + 0.08), head + sum(heights) + len(rows) * gap + foot),
        dpi=150,
        facecolor="white",
    )
    FigureCanvasAgg(figure)
    total_width, total_height = figure.get_size_inches()
    bottom = total_height - head + gap
    for r, (row, panel_height) in enumerate(zip(rows, heights, strict=True)):
        bottom -= gap + panel_height
        image = np.zeros(row.reference.shape) if row.image is None else row.image
        low, high = np.percentile(image, (0.5, 99.5))
        segmentations = [*([] if row.image is None else [None]), row.reference, *row.predictions.values()]
        for c, (column, segmentation) in enumerate(zip(columns, segmentations, strict=True)):
            left = margin + c * (_PANEL_INCHES + 0.08)
            box = (left / total_width, bottom / total_height, _PANEL_INCHES / total_width, panel_height / total_height)
            axes = figure.add_axes(box)
            axes.set_axis_off()
            axes.imshow(image, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), interpolation="bilinear")
            if column in row.predictions:
                for labels in classes.values():
                    outline(axes, np.isin(row.reference, labels), "white", 1.0)
                _scores(figure, box, total_height, row.dice[column], colors)
            if segmentation is not None:
                _overlay(axes, segmentation, classes, colors)
            if r == 0:
                axes.set_title(drawn(column), fontsize=11, color=_INK, pad=5)
            if c == 0:
                axes.text(
                    -0.03,
                    0.5,
                    drawn(row.case),
                    transform=axes.transAxes,
                    rotation=90,
                    ha="right",
                    va="center",
                    fontsize=9,
                    color=_FAINT,
                )
    if title:
        figure.text(0.5, 1 - 0.12 / total_height, title, ha="center", va="top", fontsize=12, color=_INK)
    handles = [Line2D([], [], color=color, linewidth=6, label=drawn(name)) for name, color in colors.items()]
    handles.append(Line2D([], [], color="white", linewidth=1.2, label="outline of the reference"))
    legend = figure.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(0.5, 0.06 / total_height),
        ncols=len(handles),
        fontsize=9,
        facecolor="#BBBBBB",
        edgecolor="none",
        borderpad=0.7,
        labelcolor="black",
    )
    legend.get_frame().set_alpha(1)

    write_aside(path, png_of(figure))


def _overlay(axes: Axes, segmentation: np.ndarray, classes: dict[str, tuple[int, ...]], colors: dict[str, str]) -> None:
    """A light fill and a strong outline for each class."""
    for name, labels in classes.items():
        mask = np.isin(segmentation, labels)
        fill(axes, mask, colors[name], 0.35)
        outline(axes, mask, colors[name], 1.6)


def _scores(
    figure: Figure,
    box: tuple[float, float, float, float],
    total_height: float,
    dice: dict[str, float | None],
    colors: dict[str, str],
) -> None:
    """The Dice per class under a panel, each with its color's marker; "-" where the reference lacks the class."""
    left, bottom, width, _ = box
    step = width / len(dice)
    for i, (name, value) in enumerate(dice.items()):
        x, y = left + (i + 0.5) * step, bottom - 0.14 / total_height
        figure.text(x - 0.16 * step, y, "\u25a0", color=colors[name], ha="right", va="center", fontsize=9)
        text = "-" if value is None else f"{value:.2f}"
        figure.text(x - 0.10 * step, y, text, color=_INK, ha="left", va="center", fontsize=9)
