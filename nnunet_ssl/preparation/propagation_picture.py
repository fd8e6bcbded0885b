"""A picture of labels that were carried through a scan: the annotated slice and others on both of its sides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nnunet_ssl.files import write_aside
from nnunet_ssl.names import drawn
from nnunet_ssl.pictures import COLORS, outline, png_of

SHARES = (-0.24, -0.12, -0.04, 0.0, 0.04, 0.12, 0.24)  # of the scan's extent, from the annotated slice


def picture(
    path: Path,
    case: str,
    image: np.ndarray,
    volumes: np.ndarray,
    planes: list[tuple[int, int]],
    spacing: tuple[float, ...],
) -> None:
    """Writes a PNG with a row for each plane: slices before it, itself, and slices behind it.

    Args:
        image: (*spatial).
        volumes: labels carried along the normal of each plane, (planes, *spatial).
        planes: axis and index of each.
        spacing: mm between voxels along each axis.
    """
    figure = Figure(figsize=(2.2 * len(SHARES), 2.5 * len(planes) + 0.4), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    low, high = np.percentile(image, (0.5, 99.5))
    for row, (volume, (axis, index)) in enumerate(zip(volumes, planes, strict=True)):
        size = image.shape[axis]
        height, width = (step for number, step in enumerate(spacing) if number != axis)
        for column, share in enumerate(SHARES):
            axes = figure.add_subplot(len(planes), len(SHARES), row * len(SHARES) + column + 1)
            axes.set_axis_off()
            at = index + round(share * size)
            if not 0 <= at < size:
                continue
            axes.imshow(image.take(at, axis), cmap="gray", vmin=low, vmax=max(high, low + 1e-6), aspect=height / width)
            labels = volume.take(at, axis)
            for number, label in enumerate(np.unique(volume[volume > 0])):
                outline(axes, labels == label, COLORS[number % len(COLORS)], 1.2)
            title = f"axis {axis}, slice {at}: annotated" if at == index else f"slice {at} ({at - index:+d})"
            axes.set_title(title, fontsize=8, fontweight="bold" if at == index else "normal")
    figure.suptitle(f"{drawn(case)}: labels carried from the annotated slices", fontsize=10)
    figure.tight_layout()
    write_aside(path, png_of(figure))
