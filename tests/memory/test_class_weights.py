"""Difficulty and distribution weights against the numbers of their formulas."""

import pytest
import torch
from workbench import kind, target

from nnunet_ssl.memory.class_weights import (
    AbsoluteDifficulty,
    DifferenceWeights,
    DifficultyWeights,
    DistributionWeights,
    ReversedWeights,
    agreement,
    reversed_rates,
)


def close(actual, expected, tolerance=2e-6):
    torch.testing.assert_close(actual, torch.tensor(expected), atol=tolerance, rtol=0)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((1000.0, 100.0, 10.0, 1.0), (0.0, 1.333333, 2.666667, 4.0)),
        ((1000.0, 100.0, 0.0, 1.0), (0.0, 0.363636, 4.0, 1.090909)),
        ((6.0, 2.0, 0.0, 0.0), (0.0, 0.217413, 4.0, 4.0)),
    ],
)
def test_distribution_of_counts(counts, expected):
    close(DistributionWeights(kind(4)).current(torch.tensor(counts)), expected)


def test_classes_that_the_labeled_cases_lack_do_not_damp_the_others():
    """They keep the largest weight; as published (1000, 100, 0, 1) gives (0, 0.363636, 4, 1.090909)."""
    weights = DistributionWeights(kind(4))
    weights.start(lambda: torch.tensor([1000.0, 100.0, 0.0, 1.0], dtype=torch.float64))
    close(weights.average, (0.0, 1.333333, 4.0, 4.0))
    close(seen(weights, 600, 60, 0, 6), (0.0, 0.99 * 1.333333 + 0.01 * 2, 4.0, 4.0))
    weights.start(lambda: torch.tensor([0.0, 0.0, 0.0, 0.0]))
    assert torch.isfinite(seen(weights, 600, 60, 0, 6)).all()
    published = DistributionWeights(kind(4), skip_absent=False)
    published.start(lambda: torch.tensor([1000.0, 100.0, 0.0, 1.0], dtype=torch.float64))
    close(published.average, (0.0, 0.363636, 4.0, 1.090909))


def test_distribution_moves_slowly():
    weights = DistributionWeights(kind(4))
    weights.start(lambda: torch.tensor([1000.0, 100.0, 10.0, 1.0], dtype=torch.float64))
    close(seen(weights, 6, 2, 0, 0), (0.0, 1.322174, 2.68, 4.0))


def test_equal_counts_tell_nothing():
    weights = DistributionWeights(kind(3))
    weights.start(lambda: torch.tensor([100.0, 10.0, 1.0]))
    before = weights.average.clone()
    assert torch.equal(seen(weights, 5, 5, 5), before)


CALLS = [("00001122", "00001112"), ("00001112", "00001112"), ("00011122", "00001112")]


def labels(text):
    return torch.tensor([int(digit) for digit in text]).view(1, 2, 4)


def updated(weights, prediction, truth, classes=4):
    """The weights after a step with these labels, one digit for each voxel."""
    return weights.update(labels(prediction), labels(prediction), target(labels(truth)[:, None], classes))


def counted(*voxels):
    """Pseudo-labels with so many voxels of each class."""
    return torch.repeat_interleave(torch.arange(len(voxels)), torch.tensor(voxels))[None]


def seen(weights, *voxels):
    """The weights after a step with so many pseudo-labeled voxels of each class."""
    return weights.update(None, counted(*voxels), None)


def test_difficulty_over_three_calls_as_published():
    weights = DifficultyWeights(kind(4), skip_absent=False)
    dice = [(1.0, 0.8, 0.666667, 0.5), (1.0, 1.0, 1.0, 0.5), (0.857143, 0.666667, 0.666667, 0.5)]
    expected = [
        (3.420688, 3.60017, 3.751537, 4.0),
        (3.38579, 3.561217, 3.704794, 4.0),
        (2.532983, 3.845054, 4.0, 0.35517),
    ]
    for step, (prediction, truth) in enumerate(CALLS):
        result = updated(weights, prediction, truth)
        close(weights.dice, dice[step])
        close(result, expected[step], 2e-5)
        if step == 0:
            close(weights.learned, (0.368414, 0.291161, 0.240203, 0.177275))
    close(weights.unlearned, (0.00044, 0.002703, 0.002703, 0.0))
    close(weights.gap, (0.944049, 0.9517, 0.954261, 0.970596))


def test_absent_classes_are_left_alone():
    weights = DifficultyWeights(kind(4))
    for prediction, truth in CALLS:
        updated(weights, prediction, truth)
    assert weights.gap[3] == 1 and weights.learned[3] == 0 and weights.dice[3] == pytest.approx(1e-8)
    assert torch.isfinite(weights.weights()).all()


# four classes of which the labels have three, once predicted by chance before anything is learned
LEARNED = [("00001122", "00001112"), ("00001112", "00001112"), ("00001112", "00001112")]


@pytest.mark.parametrize("by_chance", [[], [("00003333", "00001112")]])
def test_a_class_that_no_label_had_does_not_damp_the_others(by_chance):
    weights, alone = DifficultyWeights(kind(4)), DifficultyWeights(kind(3))
    for prediction, truth in by_chance + LEARNED:
        four = updated(weights, prediction, truth)
        three = updated(alone, prediction, truth, 3)
    torch.testing.assert_close(four[:3] / 4, three / 3)
    assert four.max() == four[3] == 4 and four[:3].max() == 4
    assert weights.seen.tolist() == [True, True, True, False]


def test_before_any_label_all_classes_weigh_the_same():
    assert DifficultyWeights(kind(3)).weights().tolist() == [3, 3, 3]


def test_a_checkpoint_without_the_classes_seen_goes_on_as_it_was_trained():
    for made in (DifficultyWeights, DistributionWeights):
        before, after = made(kind(4)), made(kind(4))
        state = {name: value + 1 for name, value in before.state_dict().items() if name != "seen"}
        after.load_state_dict(state)
        assert after.seen.all()
        assert all(torch.equal(value, after.state_dict()[name]) for name, value in state.items())


def test_agreement_against_plain_loops():
    torch.manual_seed(0)
    prediction, labels = torch.randint(0, 5, (2, 3, 7, 5)), torch.randint(0, 5, (2, 3, 7, 5))
    valid = torch.rand(2, 3, 7, 5) > 0.3
    overlap, predicted, labeled = agreement(prediction, target(torch.where(valid, labels, 5)[:, None], 5, ignore=5))
    for k in range(5):
        mine, theirs = (prediction == k) & valid, (labels == k) & valid
        assert overlap[k] == (mine & theirs).sum()
        assert predicted[k] == mine.sum() and labeled[k] == theirs.sum()


def test_agreement_of_regions():
    regions = torch.tensor([[[1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]])
    overlap, predicted, labeled = agreement(regions, target(torch.ones(1, 2, 4), 2, regions=True))
    assert overlap.tolist() == predicted.tolist() == [2, 1] and labeled.tolist() == [4, 4]


# ---------------------------------------------------------------------- below the most frequent class


def said(weights, labeled, unlabeled, **target_settings):
    """The weights after a step with so many voxels of each class in labeled and in unlabeled patches."""
    on_labeled = counted(*labeled)
    truth = target(torch.zeros_like(on_labeled)[:, None], len(labeled), **target_settings)
    return weights.update(on_labeled, counted(*unlabeled), truth)


def test_difference_of_counts_and_its_start():
    counts = torch.tensor([900.0, 70.0, 20.0, 10.0])
    weights = DifferenceWeights(kind(4))
    close(weights.current(counts), (0.0, 3.32, 3.52, 3.56))
    assert weights.average.tolist() == [4, 4, 4, 4]
    weights.start(lambda: counts.double())
    close(weights.average, (3.96, 3.9932, 3.9952, 3.9956))


def test_difference_after_a_hundred_steps():
    weights = DifferenceWeights(kind(4))
    weights.start(lambda: torch.tensor([900.0, 70.0, 20.0, 10.0]))
    for _ in range(100):
        result = said(weights, (400, 30, 15, 5), (500, 40, 5, 5))  # together 900, 70, 20, 10
    close(result, (1.449489, 3.566417, 3.693942, 3.719443), 1e-5)


@pytest.mark.parametrize("counts", [(7, 5, 0, 0), (1, 3, 900, 2), (0, 0, 0, 5), (1, 1, 1, 1)])
def test_the_most_frequent_class_differs_by_nothing(counts):
    current = DifferenceWeights(kind(4)).current(torch.tensor(counts).float())
    assert current[torch.tensor(counts).argmax()] == 0 and (current >= 0).all() and (current <= 4).all()
    assert current.any() == (len(set(counts)) > 1)


def test_differences_stay_between_floor_and_the_number_of_classes():
    weights, published = DifferenceWeights(kind(4), momentum=0.5, floor=0.01), DifferenceWeights(kind(4), momentum=0.5)
    for _ in range(200):
        results = [said(each, (9, 1, 0, 0), (9, 1, 0, 0)) for each in (weights, published)]
        assert all((each >= 0).all() and (each <= 4).all() for each in results)
    close(results[0], (0.04, 3.2, 3.6, 3.6))
    close(results[1], (0.0, 3.2, 3.6, 3.6))
    assert results[1][0] == 0  # in float32, as published


def test_differences_leave_out_what_is_not_annotated():
    weights, sparse = (DifferenceWeights(kind(2), momentum=0.0) for _ in range(2))
    unlabeled, on_labeled = counted(2, 2), torch.tensor([[0, 0, 0, 1]])
    truth = torch.tensor([[[2, 2, 0, 0]]])  # label 2 is to be ignored
    close(weights.update(on_labeled, unlabeled, target(truth.clamp_max(0), 2)), (0.0, 2 * (5 - 3) / 8))
    close(sparse.update(on_labeled, unlabeled, target(truth, 2, ignore=2)), (0.0, 0.0))


def test_differences_of_regions_are_to_the_voxels_in_none():
    weights = DifferenceWeights(kind(2, True), momentum=0.0)
    inside = torch.tensor([[[1.0, 1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0]]])  # 2, 1 and 3 in none
    truth = target(torch.zeros_like(inside), 2, regions=True)
    close(weights.update(inside, inside, truth), (3 * (3 - 2) / 6, 3 * (3 - 1) / 6))


# ---------------------------------------------------------------------- rates in reverse


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((1000.0, 125.0, 8.0, 1.0), (0.1, 0.2, 0.5, 1.0)),
        ((1000.0, 125.0, 0.0, 1.0), (0.000215, 0.1, 1.0, 0.5)),
        ((1000.0, 0.0, 0.0, 1.0), (0.000215, 0.1, 1.0, 0.000215)),  # equally absent: the later one is the rarer
        ((1.0, 8.0, 1000.0, 125.0), (1.0, 0.5, 0.1, 0.2)),
        ((3.0, 3.0, 3.0), (1.0, 1.0, 1.0)),
    ],
)
def test_rates_in_reverse(counts, expected):
    close(reversed_rates(torch.tensor(counts), 3.0), expected)
    assert reversed_rates(torch.tensor(counts), 3.0).max() == 1
    close(ReversedWeights(kind(len(counts))).current(torch.tensor(counts)), expected)


def test_rates_are_those_of_the_classes_in_another_order_whatever_the_size_of_the_patch():
    counts = torch.tensor([5000.0, 30.0, 700.0, 2.0, 90.0])
    rates = reversed_rates(counts, 3.0)
    torch.testing.assert_close(rates.sort().values, ((counts / 5000) ** (1 / 3)).sort().values)
    assert rates.argmax() == 3 and rates.argmin() == 0
    torch.testing.assert_close(reversed_rates(1000 * counts, 3.0), rates, atol=1e-6, rtol=0)


def test_rates_of_nothing():
    assert reversed_rates(torch.zeros(0), 3.0).tolist() == []


def test_reversed_weights_start_from_the_labels_and_move_slowly():
    weights = ReversedWeights(kind(4))
    weights.start(lambda: torch.tensor([1000.0, 125.0, 8.0, 1.0], dtype=torch.float64))
    close(weights.average, (0.1, 0.2, 0.5, 1.0))
    close(seen(weights, 8, 64, 1, 0), (0.099 + 0.0025, 0.198, 0.495 + 0.005, 1.0), 2e-5)  # now 1/4, 5e-4, 1/2, 1


@pytest.mark.parametrize("made", [DistributionWeights, DifferenceWeights, ReversedWeights])
def test_weights_of_regions_are_one_fewer_than_their_entries(made):
    weights = made(kind(2, True))
    weights.start(lambda: torch.tensor([100.0, 10.0, 1000.0]))
    assert len(weights.average) == 3
    regions = torch.zeros(1, 2, 4, 4)
    assert weights.update(regions, regions, target(regions, 2, regions=True)).shape == (2,)


# ---------------------------------------------------------------------- difficulty that is not divided by its largest

ABSOLUTE = [
    (0.120232, 0.12654, 0.131861, 0.140594),
    (0.118304, 0.124434, 0.129451, 0.139765),
    (0.991002, 1.504336, 1.564957, 0.138956),
]


def test_absolute_difficulty_over_three_calls_as_published():
    weights = AbsoluteDifficulty(kind(4), skip_absent=False)
    for (prediction, truth), expected in zip(CALLS, ABSOLUTE, strict=True):
        close(updated(weights, prediction, truth), expected)


def test_an_absolute_class_that_no_label_has_weighs_as_much_as_the_heaviest_of_the_others():
    weights = AbsoluteDifficulty(kind(4))
    for (prediction, truth), expected in zip(CALLS, ABSOLUTE, strict=True):
        found = updated(weights, prediction, truth)
        close(found[:3], expected[:3])
        assert found[3] == found[:3].max()
    ignored = target(torch.full((1, 1, 2, 4), 4.0), 4, ignore=4)
    nothing = AbsoluteDifficulty(kind(4)).update(labels("00001122"), None, ignored)
    assert nothing.tolist() == [0, 0, 0, 0]
