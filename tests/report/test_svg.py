"""Figures as SVG: axes with round ticks, names as text, panels side by side."""

from xml.etree import ElementTree

import pytest

from nnunet_ssl.report.svg import Drawing, Scale, as_grid


@pytest.mark.parametrize(
    ("low", "high", "most", "ticks"),
    [
        (0, 1, 6, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0.58, 0.83, 6, [0.6, 0.65, 0.7, 0.75, 0.8]),
        (-0.3, 0.3, 4, [-0.2, 0, 0.2]), (0, 8000, 4, [0, 5000]), (0.601, 0.603, 3, [0.601, 0.602, 0.603]),
    ],
)  # fmt: skip
def test_ticks_are_round(low, high, most, ticks):
    assert Scale(low, high, 0, 100).ticks(most) == pytest.approx(ticks)


def test_a_scale_is_linear_and_may_go_up():
    scale = Scale(0.5, 1.0, 200, 100)
    assert (scale(0.5), scale(0.75), scale(1.0)) == (200, 150, 100)


def test_names_are_text():
    drawing = Drawing(100, 50, "<a> & b")
    drawing.text(1, 2, '<script>"x"</script>')
    drawing.dot(3, 4, 5, "ink", title="<b>")
    root = ElementTree.fromstring(drawing.svg())
    texts = [element.text for element in root.iter() if element.text]
    assert texts == ["<a> & b", '<script>"x"</script>', "<b>"]


def test_panels_stand_side_by_side():
    grid = as_grid([Drawing(100, 50, str(n)) for n in range(5)], 4, "all")
    assert (grid.width, grid.height) == (400, 100)
    places = [(e.get("x"), e.get("y")) for e in ElementTree.fromstring(grid.svg()) if e.tag.endswith("}svg")]
    assert places == [("0.0", "0.0"), ("100.0", "0.0"), ("200.0", "0.0"), ("300.0", "0.0"), ("0.0", "50.0")]
