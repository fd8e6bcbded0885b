"""Which label a name or a number in a file means."""

from pathlib import Path

import numpy as np
import pytest

from nnunet_ssl.annotation.drawn import Drawn
from nnunet_ssl.annotation.naming import Labels, painted, read_given
from nnunet_ssl.errors import InputError

FILE = Path("dataset.json")
CLASSES = {
    "labels": {"background": 0, "liver": 1, "Left kidney": 2, "left Kidney": 3, "ignore": 4},
    "file_ending": ".nii.gz",
}
REGIONS = {
    "labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3},
    "regions_class_order": [1, 2, 3],
    "file_ending": ".nii.gz",
}


@pytest.mark.parametrize(
    ("drawn", "label"),
    [
        ("liver", 1), ("Liver ", 1), ("1", 1), ("Segment_2", 2), ("Left kidney", 2), ("left Kidney", 3), ("ignore", 4),
        ("LEFT KIDNEY", None), ("lever", None), ("5", None), ("Segment_5", None), ("1.0", None), ("-1", None),
        ("background", 0), ("skin", 0), ("255", 2),
    ],
)  # fmt: skip
def test_names_of_classes(drawn, label):
    labels = Labels.of(CLASSES, FILE)
    assert labels.meaning(drawn, {"skin": "background", "255": "Left kidney"}) == label


def test_names_of_regions_and_what_their_labels_are_called():
    labels = Labels.of(REGIONS, FILE)
    assert [labels.meaning(name, {}) for name in ("whole", "core", "enhancing", "2")] == [1, 2, 3, 2]
    assert labels.called(2) == "whole, core (2)" and labels.called(0) == "background (0)"
    with pytest.raises(InputError, match="regions_class_order must list a label for each region"):
        Labels.of({**REGIONS, "regions_class_order": [1]}, FILE)


@pytest.mark.parametrize("text", ["liver", "=1", "a=", "a=spleen", "a=9"])
def test_what_the_user_says_must_be_a_label(text):
    with pytest.raises(InputError, match=f"--map {text}: "):
        read_given([text], Labels.of(CLASSES, FILE))
    assert read_given(["a = b=liver"], Labels.of(CLASSES, FILE)) == {"a = b": "liver"}


def drawn(*layers, segments):
    arrays = np.array(layers).reshape(len(layers), 1, 1, -1)
    return Drawn(arrays, None, segments, False), arrays


def paint(content, *layers, segments, given=None):
    file, arrays = drawn(*layers, segments=segments)
    return painted(file, arrays, Labels.of(content, FILE), given or {}, "case a")


def test_regions_are_painted_in_nnunets_order_whatever_that_of_the_segments():
    segments = {(0, 1): "enhancing", (1, 1): "whole", (2, 1): "core"}
    label, found = paint(REGIONS, [0, 0, 0, 1], [0, 1, 1, 1], [0, 0, 1, 1], segments=segments)
    assert label.ravel().tolist() == [0, 1, 2, 3] and label.dtype == np.int16
    assert found == {"whole": (1, 3), "core": (2, 2), "enhancing": (3, 1)}


def test_a_segment_of_one_layer_is_part_of_the_regions_around_it():
    label, _ = paint(REGIONS, [0, 1, 2, 2], segments={(0, 1): "whole", (0, 2): "core"})
    assert label.ravel().tolist() == [0, 1, 2, 2]


def test_regions_that_cannot_overlap_are_told_apart():
    content = {**REGIONS, "labels": {"background": 0, "left": [1, 3], "right": [2, 4]}, "regions_class_order": [1, 2]}
    with pytest.raises(InputError, match=r"1 voxels are drawn as left and also as right \(2\), which is no part of it"):
        paint(content, [1, 1, 0], [0, 1, 1], segments={(0, 1): "left", (1, 1): "right"})


def test_two_segments_of_one_name_and_one_for_the_background():
    segments = {(0, 1): "liver", (0, 2): "Liver", (0, 3): "skin"}
    label, found = paint(CLASSES, [1, 2, 3, 0], segments=segments, given={"skin": "background"})
    assert label.ravel().tolist() == [1, 1, 0, 0] and found["skin"] == (0, 1)


def test_an_unknown_segment_without_voxels_is_no_fault():
    label, found = paint(CLASSES, [1, 0], segments={(0, 1): "liver", (0, 2): "notes"})
    assert label.ravel().tolist() == [1, 0] and set(found) == {"liver"}
