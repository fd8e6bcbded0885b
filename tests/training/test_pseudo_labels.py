"""Pseudo-labels of whole cases: which structures are one component, what is written, what is missed."""

from types import SimpleNamespace

import blosc2
import numpy as np
import pytest
import torch
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from workbench import file_size_limit

from nnunet_ssl.data.loader import UnlabeledPool
from nnunet_ssl.data.previous_stage import check_predicted
from nnunet_ssl.errors import InputError
from nnunet_ssl.training.pseudo_labels import LABELS_LOST, label_cases, single_components, structures

CLASSES = LabelManager({"background": 0, "a": 1, "b": 2}, None)
REGIONS = LabelManager({"background": 0, "both": [1, 2], "b": 2}, [1, 2])
SPARSE = LabelManager({"background": 0, "a": 1, "b": 2, "ignore": 3}, None)
ONE = LabelManager({"background": 0, "a": 1}, None)


def boxes(*corners_and_labels, size=5):
    """A label map of cubes."""
    found = np.zeros((20, 20, 20), np.int16)
    for corner, label in corners_and_labels:
        found[tuple(slice(c, c + size) for c in corner)] = label
    return found


TOUCHING = boxes(((2, 2, 2), 1), ((7, 2, 2), 2))
APART = boxes(((2, 2, 2), 1), ((14, 14, 14), 2))
TWO_OF_B = boxes(((2, 2, 2), 1), ((7, 2, 2), 2), ((14, 14, 14), 2))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [(CLASSES, [(1, 2), 1, 2]), (REGIONS, [(1, 2), (2,)]), (ONE, [1])],
    ids=["two", "regions", "one"],
)
def test_structures_are_nnunets(labels, expected):
    assert structures(labels) == expected


@pytest.mark.parametrize(
    ("cases", "labels", "expected"),
    [
        ([TOUCHING, TOUCHING], CLASSES, [(1, 2), 1, 2]),
        ([TOUCHING, APART], CLASSES, [1, 2]),
        ([TOUCHING, TWO_OF_B], CLASSES, [1]),
        ([TOUCHING, TWO_OF_B], REGIONS, []),
        ([boxes(((2, 2, 2), 1))], CLASSES, [(1, 2), 1]),  # nothing is known of a class that no case has
        ([np.zeros((4, 4, 4), np.int16)], CLASSES, []),
        ([TOUCHING], SPARSE, []),
    ],
)
def test_single_components_of_the_labeled_cases(cases, labels, expected):
    assert single_components(cases, labels) == expected


@pytest.mark.parametrize(("loose", "single"), [(1, True), (2, False)])
def test_a_hundredth_may_be_loose(loose, single):
    segmentation = np.zeros((20, 20, 20), np.int16)
    segmentation[:5, :5, :4] = 1  # 100 voxels
    segmentation[15, 15, 15 : 15 + loose] = 1
    segmentation[10, 10] = -1  # nnU-Net's mark of what lies outside
    assert single_components([segmentation], ONE) == ([1] if single else [])


class Predictor:
    """Stands in for nnU-Net's: the image itself tells the class."""

    def __init__(self, labels):
        self.label_manager, self.seen = labels, []

    def predict_sliding_window_return_logits(self, image):
        self.seen.append(image)
        return torch.nn.functional.one_hot(image[0].long(), 3).movedim(-1, 0).half() * 9


@pytest.fixture
def pool(tmp_path):
    files = {}
    for name, labels in (("case_1", TWO_OF_B), ("case_2", APART)):
        files[name] = str(tmp_path / f"{name}.b2nd")
        blosc2.asarray(labels[None].astype(np.float32), urlpath=files[name])
    return UnlabeledPool(files)


def read(folder, case):
    return blosc2.open(str(folder / f"{case}.b2nd"))[:]


def test_cases_are_labeled_and_loose_parts_removed(pool, tmp_path):
    folder = tmp_path / "labels"
    folder.mkdir()
    label_cases(Predictor(CLASSES), pool, pool.identifiers, [], folder)
    assert read(folder, "case_1").dtype == np.int16
    assert np.array_equal(read(folder, "case_1"), TWO_OF_B) and np.array_equal(read(folder, "case_2"), APART)
    assert sorted(file.name for file in folder.iterdir()) == ["case_1.b2nd", "case_2.b2nd"]
    label_cases(Predictor(CLASSES), pool, ["case_1"], [(1, 2), 1, 2], folder)
    assert np.array_equal(read(folder, "case_1"), TOUCHING)
    assert np.array_equal(read(folder, "case_2"), APART)
    check_predicted(folder, pool.identifiers, "unlabeled", LABELS_LOST, "pseudo-label")


def test_in_a_cascade_the_first_stage_is_joined_one_hot(pool, tmp_path):
    folder, first = tmp_path / "labels", tmp_path / "first"
    folder.mkdir()
    first.mkdir()
    blosc2.asarray(TOUCHING.astype(np.uint8), urlpath=str(first / "case_2.b2nd"))
    predictor = Predictor(CLASSES)
    label_cases(predictor, UnlabeledPool(pool.files, first), ["case_2"], [], folder)
    image = predictor.seen[0].numpy()
    assert np.array_equal(image, np.stack([APART, TOUCHING == 1, TOUCHING == 2]).astype(np.float32))


def test_regions_are_stored_as_labels(pool, tmp_path):
    folder = tmp_path / "labels"
    folder.mkdir()
    logits = torch.from_numpy(np.stack([TWO_OF_B > 0, TWO_OF_B == 2]).astype(np.float32)) * 20 - 10
    predictor = SimpleNamespace(label_manager=REGIONS, predict_sliding_window_return_logits=lambda image: logits)
    label_cases(predictor, pool, ["case_1"], [], folder)
    assert np.array_equal(read(folder, "case_1"), TWO_OF_B)


def test_it_ends_between_two_cases(pool, tmp_path):
    folder, asked = tmp_path / "labels", []
    folder.mkdir()

    def between():
        asked.append(len(list(folder.iterdir())))
        if len(asked) == 2:
            raise SystemExit

    with pytest.raises(SystemExit):
        label_cases(Predictor(CLASSES), pool, pool.identifiers, [], folder, between)
    assert asked == [0, 1]
    with pytest.raises(InputError, match=r"1 unlabeled case\(s\) have no pseudo-label in .*labels \(case_2\)"):
        check_predicted(folder, pool.identifiers, "unlabeled", LABELS_LOST, "pseudo-label")
    with pytest.raises(InputError, match="2 unlabeled"):
        check_predicted(tmp_path / "none", pool.identifiers, "unlabeled", LABELS_LOST, "pseudo-label")


def test_a_full_disk_names_the_case_and_leaves_no_part(pool, tmp_path):
    folder = tmp_path / "labels"
    folder.mkdir()
    label_cases(Predictor(CLASSES), pool, ["case_1"], [], folder)
    message = r"case_2: .* cannot be written .*labels.* --c labels all cases again"
    with file_size_limit(64), pytest.raises(InputError, match=message):
        label_cases(Predictor(CLASSES), pool, ["case_2"], [], folder)
    assert [file.name for file in folder.iterdir()] == ["case_1.b2nd"]
