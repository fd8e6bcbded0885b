"""The comparison picture, read back: size, colors of the classes, and where a prediction differs."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from nnunet_ssl.demo.picture import Row, comparison_picture
from nnunet_ssl.pictures import COLORS

CLASSES = {"square": (1,), "both": (2, 3)}


def row(prediction, shape=(40, 50)):
    image = np.random.default_rng(0).integers(0, 50, shape)
    reference = np.zeros(shape, dtype=np.uint8)
    reference[5:15, 5:15] = 1
    reference[25:35, 25:30] = 2
    reference[25:35, 30:35] = 3
    chosen = reference if prediction == "right" else np.zeros_like(reference)
    return Row("case", image, reference, {"A": chosen}, {"A": {"square": 1.0, "both": None}})


def count(picture, color):
    return int((np.abs(picture[..., :3] - to_rgb(color)).max(axis=-1) < 0.02).sum())


def draw(path, rows, **more):
    comparison_picture(path, rows, CLASSES, **more)
    return imread(path)


def test_one_row_per_case_and_one_column_per_prediction(tmp_path):
    one = draw(tmp_path / "one.png", [row("right")])
    two = draw(tmp_path / "two.png", [row("right"), row("right")])
    assert two.shape[1] == one.shape[1]
    assert two.shape[0] - one.shape[0] > 250
    three = row("right")
    more = draw(
        tmp_path / "more.png",
        [
            Row(
                "c",
                three.image,
                three.reference,
                dict.fromkeys("AB", three.reference),
                dict.fromkeys("AB", {"square": 0.5, "both": 0.25}),
            )
        ],
    )
    assert more.shape[1] - one.shape[1] > 350


def test_each_row_is_as_high_as_its_image(tmp_path):
    high = draw(tmp_path / "high.png", [row("right", (60, 40))])
    wide = draw(tmp_path / "wide.png", [row("right", (40, 60))])
    both = [
        draw(tmp_path / f"{i}.png", [row("right", s) for s in shapes])
        for i, shapes in enumerate([((60, 40), (40, 60)), ((40, 60), (60, 40))])
    ]
    assert both[0].shape == both[1].shape
    twice = draw(tmp_path / "twice.png", [row("right", (40, 60))] * 2)
    assert both[0].shape[0] == pytest.approx(high.shape[0] + twice.shape[0] - wide.shape[0], abs=2)


def test_classes_have_their_colors_and_empty_predictions_none(tmp_path):
    right = draw(tmp_path / "right.png", [row("right")])
    empty = draw(tmp_path / "empty.png", [row("empty")])
    unused = COLORS[2]
    for color in COLORS[:2]:
        assert count(right, color) > count(empty, color) + 300  # outlines in the prediction's panel
        assert count(empty, color) > 300  # the reference, the legend, the scores
    assert count(right, unused) < 20


def test_region_is_outlined_as_one(tmp_path):
    one_label, two_labels = row("right"), row("right")
    one_label.reference[one_label.reference == 3] = 2
    assert np.array_equal(draw(tmp_path / "a.png", [one_label]), draw(tmp_path / "b.png", [two_labels]))


def test_a_label_of_two_lines_is_not_cut_by_the_edge(tmp_path):
    picture = draw(tmp_path / "two.png", [replace(row("right"), case="best\ncase")])
    assert (picture[:, :3, :3] == 1).all()


def test_no_partial_file_stays(tmp_path):
    draw(tmp_path / "new" / "picture.png", [row("right")], title="A title")
    assert [f.name for f in (tmp_path / "new").iterdir()] == ["picture.png"]


def test_names_are_no_formulas(tmp_path):
    named = replace(row("right"), case="a$b_{$", dice={"A": {"$x_{$": 1.0}})
    comparison_picture(tmp_path / "picture.png", [named], {"$x_{$": (1,)})
    assert (tmp_path / "picture.png").is_file()
