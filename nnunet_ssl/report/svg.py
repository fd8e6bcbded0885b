"""Figures as SVG: a few shapes, colored by class, so that a page can give them the colors of its own light or dark."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

# Of Okabe and Ito's palette for all kinds of color vision; the bounds are gray.
COLORS = {"ink": "#222", "faint": "#767676", "grid": "#e4e4e4", "better": "#0072b2", "other": "#d55e00"}
STYLE = "text{font-family:sans-serif}" + "".join(f".c-{tone}{{color:{color}}}" for tone, color in COLORS.items())
LETTER = 0.68  # width of a wide letter, in sizes of the font


class Drawing:
    """One figure, in pixels from its upper left corner. `tone` is one of :data:`COLORS`; titles show at the mouse."""

    def __init__(self, width: float, height: float, title: str):
        self.width, self.height, self.title = width, height, title
        self.shapes: list[Markup] = []

    def line(self, points: Sequence[tuple[float, float]], tone: str, width=1.0, dash="", opacity=1.0, title="") -> None:
        """A line through points."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._add(
            "polyline", tone, title, points=path, fill="none", stroke="currentColor", stroke_width=width,
            stroke_dasharray=dash, opacity=opacity,
        )  # fmt: skip

    def dot(self, x: float, y: float, radius: float, tone: str, filled=True, opacity=1.0, title="") -> None:
        """A dot, or a ring."""
        fill = "currentColor" if filled else "none"
        self._add(
            "circle", tone, title, cx=f"{x:.1f}", cy=f"{y:.1f}", r=radius, fill=fill, stroke="currentColor",
            stroke_width=1.5, opacity=opacity,
        )  # fmt: skip

    def box(self, x: float, y: float, width: float, height: float, tone: str, opacity=1.0, title="") -> None:
        """A filled rectangle."""
        self._add(
            "rect", tone, title, x=f"{x:.1f}", y=f"{y:.1f}", width=f"{width:.1f}", height=f"{height:.1f}",
            fill="currentColor", opacity=opacity,
        )  # fmt: skip

    def text(self, x: float, y: float, text: str, tone="ink", anchor="start", size=12.0) -> None:
        """A line of text whose middle is at `y`; `anchor` is start, middle or end."""
        shape = Markup('<text class="c-{}" x="{:.1f}" y="{:.1f}" text-anchor="{}" font-size="{}" fill="currentColor">')
        self.shapes.append(shape.format(tone, x, y + 0.36 * size, anchor, size) + text + Markup("</text>"))

    def place(self, other: Drawing, x: float, y: float) -> None:
        """Another figure within this one."""
        nested = Markup('<svg x="{:.1f}" y="{:.1f}" width="{:.0f}" height="{:.0f}">')
        shapes = Markup("").join(other.shapes)
        self.shapes.append(nested.format(x, y, other.width, other.height) + shapes + Markup("</svg>"))

    def svg(self, alone: bool = False) -> Markup:
        """As part of a page that has the colors, or `alone` as a file."""
        head = Markup(
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0:.0f} {1:.0f}" width="{0:.0f}" role="img">'
        )
        style = Markup("<style>{}</style>").format(STYLE) if alone else ""
        title = Markup("<title>{}</title>").format(self.title)
        return head.format(self.width, self.height) + style + title + Markup("").join(self.shapes) + Markup("</svg>")

    def _add(self, shape: str, tone: str, title: str, **attributes: object) -> None:
        texts = [
            Markup(' {}="{}"').format(name.replace("_", "-"), value)
            for name, value in attributes.items()
            if value != "" and not (name == "opacity" and value == 1)
        ]
        inside = Markup("<title>{}</title>").format(title) if title else ""
        self.shapes.append(
            Markup("<{0} class='c-{1}'{2}>{3}</{0}>").format(shape, tone, Markup("").join(texts), inside)
        )


class Scale:
    """Values of an axis as pixels; ticks at round values."""

    def __init__(self, low: float, high: float, start: float, end: float):
        self.low, self.high, self.start, self.end = low, high, start, end

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, most: int = 6) -> list[float]:
        """Round values within the axis, `most` at most."""
        span = self.high - self.low
        steps = sorted(factor * 10.0**power for power in range(-6, 7) for factor in (1, 2, 5))
        step = next(step for step in steps if span / step <= most - 1)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(number * step, 9) for number in range(first, last + 1)]


def as_grid(panels: Sequence[Drawing], columns: int, title: str) -> Drawing:
    """Panels of one size side by side, in lines of `columns`."""
    width, height = panels[0].width, panels[0].height
    grid = Drawing(min(columns, len(panels)) * width, math.ceil(len(panels) / columns) * height, title)
    for number, panel in enumerate(panels):
        grid.place(panel, number % columns * width, number // columns * height)
    return grid


def text_width(text: str, size: float = 12.0) -> float:
    """About how wide a text is."""
    return LETTER * size * len(text)
