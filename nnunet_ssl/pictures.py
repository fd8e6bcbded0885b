"""What pictures share: colors of classes, a class laid over gray values, and the bytes of a figure."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

# Okabe and Ito's palette for all kinds of color vision, the colors that show on gray first.
COLORS = ("#E69F00", "#56B4E9", "#F0E442", "#CC79A7", "#009E73", "#D55E00", "#0072B2")


def fill(axes: Axes, mask: np.ndarray, color: str, opacity: float, **shown: Any) -> None:
    """Lays a color over the pixels of a mask (y, x); `shown` as `imshow` takes it."""
    colored = np.zeros((*mask.shape, 4))
    colored[mask] = (*to_rgb(color), opacity)
    axes.imshow(colored, interpolation="nearest", **shown)


def outline(axes: Axes, mask: np.ndarray, color: str, width: float) -> None:
    """Draws the border of a mask (y, x), where it has one."""
    if mask.any() and not mask.all() and min(mask.shape) > 1:
        axes.contour(mask.astype(float), levels=[0.5], colors=[color], linewidths=width)


def png_of(figure: Figure) -> bytes:
    """The figure as a PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()
