"""reliability.png: how often a class is there, against the probability that the predictions gave it."""

from __future__ import annotations

from collections.abc import Mapping
from math import log10
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nnunet_ssl.files import write_bytes
from nnunet_ssl.names import drawn
from nnunet_ssl.pictures import png_of

COLUMNS = 4
LINES = {"all": ("#777777", "all voxels"), "foreground": ("#0072B2", "around foreground")}


def draw_reliability(path: Path, calibration: Mapping[str, Any], title: str = "") -> None:
    """Writes a PNG with a panel for the largest probability (of classes) and one for each class or region.

    On the diagonal the probabilities are true; below it the network is surer than it is right. The larger a dot, the
    more voxels are in its bin.

    Args:
        calibration: as `calibrate_folders` gives it.

    Raises:
        InputError: it cannot be written.
    """
    panels = {} if calibration["regions"] else {"largest probability": {kind: calibration[kind] for kind in LINES}}
    for name in calibration["all"]["per_class"]:
        panels[name] = {kind: calibration[kind]["per_class"][name] for kind in LINES}
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.4 * columns, 3.5 * rows + 0.9), dpi=100, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axis, (name, of_sets) in zip(grid.flat, panels.items(), strict=False):
        _panel(axis, name, of_sets)
    for axis in grid.flat[len(panels) :]:
        axis.set_visible(False)
    figure.supxlabel("probability given")
    figure.supylabel("share that is right")
    figure.suptitle(drawn(title))
    write_bytes(path, png_of(figure))


def _panel(axis: Axes, name: str, of_sets: Mapping[str, Mapping[str, Any]]) -> None:
    axis.plot((0, 1), (0, 1), color="black", linewidth=0.8, linestyle=":")
    for kind, (color, label) in LINES.items():
        diagram, ece = of_sets[kind]["diagram"], of_sets[kind]["ece"]
        filled = [row for row in zip(*diagram.values(), strict=True) if row[0]]
        if not filled:
            continue
        voxels, given, observed = zip(*filled, strict=True)
        sizes = [6 + 9 * log10(count) for count in voxels]
        axis.plot(given, observed, color=color, linewidth=1.2)
        axis.scatter(given, observed, sizes, color=color, label=f"{label}: ECE {ece:.4f}", zorder=3)
    axis.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
    axis.set_title(drawn(name), fontsize=11)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=8, loc="upper left", frameon=False, scatterpoints=1)
