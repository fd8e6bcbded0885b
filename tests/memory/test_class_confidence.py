"""The confidence where a class is true against the numbers of its formula."""

import math

import pytest
import torch
from workbench import kind, output, target

from nnunet_ssl.memory.class_confidence import (
    ClassConfidence,
    FuzzyConfidence,
    FuzzyConfidenceDHC,
    fuzzy_ranks,
    fuzzy_score,
)


def step(confidence, *voxels, ignore=None, refresh=True):
    """Takes a step's voxels, each as (true class, its probability) of two classes."""
    y = torch.tensor([k for k, _ in voxels])
    p = torch.tensor([p if k == 1 else 1 - p for k, p in voxels])  # of class 1
    confidence.add(torch.stack((1 - p, p))[None], target(y.view(1, 1, -1), 2, ignore=ignore))
    if refresh:
        confidence.refresh()


def test_two_windows_of_two_steps():
    confidence = ClassConfidence(kind(2), 0.999)
    assert confidence.confidence.tolist() == [0, 0]
    step(confidence, (0, 0.5), refresh=False)
    step(confidence, (1, 0.75))
    assert confidence.confidence.tolist() == [0.5, 0.75]
    step(confidence, (0, 0.5), refresh=False)
    step(confidence, (1, 0.25))
    torch.testing.assert_close(confidence.confidence, torch.tensor([0.5, 0.7495]))
    assert not confidence.sums.any() and not confidence.counts.any()


def test_a_window_is_the_mean_over_its_voxels():
    confidence = ClassConfidence(kind(2))
    step(confidence, (0, 0.2), (0, 0.4), (0, 0.9), (1, 1.0))
    torch.testing.assert_close(confidence.confidence, torch.tensor([0.5, 1.0]))


def test_a_class_that_is_not_there_keeps_its_confidence_and_begins_with_its_first():
    confidence = ClassConfidence(kind(2), 0.9)
    step(confidence, (0, 0.5))
    assert confidence.confidence.tolist() == [0.5, 0] and confidence.seen.tolist() == [True, False]
    step(confidence, (1, 0.75))
    assert confidence.confidence.tolist() == [0.5, 0.75]
    step(confidence)
    assert confidence.confidence.tolist() == [0.5, 0.75]


def test_ignored_voxels_do_not_count():
    confidence = ClassConfidence(kind(2))
    step(confidence, (0, 0.5), (1, 0.75), (2, 0.1), ignore=2)
    assert confidence.confidence.tolist() == [0.5, 0.75]


@pytest.mark.parametrize(
    ("gamma", "expected"),
    [(0.5, (0.235702, 0.471405, 0.745356, 1.0)), (1.0, (0.055556, 0.222222, 0.555556, 1.0)), (0.0, (1.0,) * 4)],
)
def test_rates(gamma, expected):
    confidence = ClassConfidence(kind(4))
    confidence.confidence.copy_(torch.tensor([0.95, 0.8, 0.5, 0.1]))
    torch.testing.assert_close(confidence.rates(gamma), torch.tensor(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("equal", "rate"), [(0.0, 1), (0.3, 1), (1.0, 0)])
def test_equal_confidence(equal, rate):
    """All alike are all sampled; nothing is where all is learned."""
    confidence = ClassConfidence(kind(3))
    confidence.confidence.fill_(equal)
    assert confidence.rates(0.5).tolist() == [rate] * 3


def test_inside_and_outside_of_regions():
    confidence = ClassConfidence(kind(2, True))
    probs = torch.tensor([[0.9, 0.2, 0.3], [0.6, 0.6, 0.5]])[None]
    y = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])[None]
    confidence.add(probs, target(y, 2, True))
    confidence.refresh()
    torch.testing.assert_close(confidence.confidence, torch.tensor([0.9, 0.6, 0.75, 0.5]))


def test_more_voxels_than_half_precision_counts():
    confidence = ClassConfidence(kind(2))
    y = torch.zeros(1, 1, 100_000)
    with torch.autocast("cpu", torch.float16):
        confidence.add(torch.full((1, 2, 100_000), 0.5), target(y, 2))
    assert confidence.counts.tolist() == [100_000, 0] and confidence.sums.tolist() == [50_000, 0]


def test_a_step_that_overflowed_leaves_no_trace():
    confidence = ClassConfidence(kind(2))
    step(confidence, (0, 0.5), refresh=False)
    step(confidence, (0, float("nan")), (1, float("nan")))
    assert confidence.confidence.tolist() == [0.5, 0]


# ---------------------------------------------------------------------- fused scores

INDICATORS = torch.tensor([[-0.2, -0.6, -0.9, -1.1], [0.95, 0.8, 0.5, 0.2], [0.01, 0.1, 0.3, 0.5]])
SHARES = (
    (0.38858, 0.260473, 0.192963, 0.157985),
    (0.336621, 0.289732, 0.214639, 0.159008),
    (0.197515, 0.216115, 0.263964, 0.322406),
)
RANKS = (
    (0.368533, 0.447863, 0.632, 0.632),
    (0.399536, 0.428904, 0.632, 0.632),
    (0.632, 0.632, 0.445576, 0.408303),
)
FUSED = (0.680899, 0.790208, 1.0, 0.957303)
SCORE = (0.006809, 0.007902, 0.01, 0.009573)
RATES = (1.0, 0.997251, 0.991987, 0.993057)


def close(actual, expected, tolerance=1e-6):
    torch.testing.assert_close(actual, torch.tensor(expected), atol=tolerance, rtol=0)


def test_ranks_of_the_first_classes_and_the_penalty_of_others():
    shares = INDICATORS.softmax(1)
    close(shares, SHARES)
    ranks, counted = fuzzy_ranks(shares, 2)
    close(ranks, RANKS)
    close(ranks.sum(0), (1.400069, 1.508767, 1.709576, 1.672303))
    close(1 - counted.mean(0), (0.758267, 0.816598, 0.912012, 0.892531))
    close(fuzzy_score(INDICATORS, 2), FUSED)


@pytest.mark.parametrize("made", [FuzzyConfidence, FuzzyConfidenceDHC])
def test_score_and_rates_after_the_first_window(made):
    fuzzy = made(kind(4))
    fuzzy.top = 2
    assert fuzzy.rates(2.5).tolist() == [1, 1, 1, 1]
    fuzzy.sums.copy_(3 * INDICATORS)
    fuzzy.steps.fill_(3)
    fuzzy.refresh()
    close(fuzzy.indicators, INDICATORS.tolist())
    close(fuzzy.score, SCORE)
    close(fuzzy.rates(2.5), RATES)
    assert not fuzzy.sums.any() and not fuzzy.steps.any()


def prediction(*samples):
    """Of samples of voxels, each with the probabilities of its classes: (B, C, voxels)."""
    return output(torch.tensor(samples).movedim(-1, 1).log())


def truth(*samples, classes=2, ignore=None):
    return target(torch.tensor(samples)[:, None].float(), classes, ignore=ignore)


ONE = prediction([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7]])  # of three voxels


def log_sum(*p):
    return sum(math.log(each) for each in p)


def test_indicators_of_the_voxels_where_a_class_is_true():
    fuzzy = FuzzyConfidence(kind(2))
    fuzzy.add(ONE, truth([0, 1, 1]))
    entropy = (0.4 * log_sum(0.4, 0.6) + 0.7 * log_sum(0.3, 0.7)) / 2
    close(fuzzy.sums, ((0.9 * log_sum(0.9, 0.1), entropy), (0.9, 0.55), (0.0, 0.1)))
    assert fuzzy.steps.tolist() == [1, 1]


@pytest.mark.parametrize(("made", "divisors"), [(FuzzyConfidence, (2, 1)), (FuzzyConfidenceDHC, (2, 2))])
def test_steps_without_a_class(made, divisors):
    """They say nothing of it; in DHC's code they count with 0."""
    fuzzy = made(kind(2))
    fuzzy.add(ONE, truth([0, 1, 1]))
    fuzzy.add(ONE, truth([0, 0, 0]))
    assert fuzzy.steps.tolist() == list(divisors)
    fuzzy.refresh()
    close(fuzzy.indicators[1], ((0.9 + 0.6) / 2, 0.55 / divisors[1]))


def test_a_class_that_a_window_lacks_keeps_its_indicators_and_begins_with_a_guess():
    fuzzy = FuzzyConfidence(kind(2))
    close(fuzzy.indicators, ((-math.log(2),) * 2, (0.5,) * 2, (0.0,) * 2))
    for labels, expected in (([0, 0, 0], (0.6, 0.5)), ([1, 1, 1], (0.6, 0.4)), ([0, 0, 1], (0.75, 0.7))):
        fuzzy.add(ONE, truth(labels))
        fuzzy.refresh()
        close(fuzzy.indicators[1], expected)


def test_patches_are_their_own_and_in_dhcs_code_mixed():
    two = prediction([[0.9, 0.1], [0.8, 0.2]], [[0.7, 0.3], [0.6, 0.4]])
    labels = truth([0, 1], [0, 0])
    for made, expected in (
        (FuzzyConfidence, ((0.9 + 0.7 + 0.6) / 3, 0.2)),
        # at the first voxel both patches have class 0, at the second each has one
        (FuzzyConfidenceDHC, (((0.9 + 0.7) * 2 + (0.8 + 0.6)) / 3, 0.2 + 0.4)),
    ):
        fuzzy = made(kind(2))
        fuzzy.add(two, labels)
        close(fuzzy.sums[1], expected)
    assert fuzzy.sums[1, 0] > 1


def test_probabilities_of_true_classes_are_at_most_one():
    torch.manual_seed(0)
    own, mixed = FuzzyConfidence(kind(3)), FuzzyConfidenceDHC(kind(3))
    labels = target(torch.randint(0, 3, (4, 1, 8, 8)).float(), 3)
    for each in (own, mixed):
        each.add(output(9 * torch.nn.functional.one_hot(labels.labels, 3).movedim(-1, 1).float()), labels)
    assert (own.sums[1] > 0.99).all() and (own.sums[1] <= 1).all() and (mixed.sums[1] > 1).all()


@pytest.mark.parametrize("channels", [1, 2, 3, 5, 11, 12, 14])
def test_any_number_of_classes_can_be_ranked(channels):
    for made, top in ((FuzzyConfidence, max(1, channels - 2)), (FuzzyConfidenceDHC, min(12, channels))):
        fuzzy = made(kind(channels, regions=channels == 1))
        assert fuzzy.top == top
        fuzzy.refresh()
        assert fuzzy.score.max() == pytest.approx(0.01 * (channels > 1)) and fuzzy.rates(2.5).max() == 1


@pytest.mark.parametrize("channels", [2, 4, 14])
def test_the_class_that_a_network_is_least_sure_of_is_sampled_whole(channels):
    torch.manual_seed(0)
    labels = torch.arange(channels).repeat_interleave(500)
    logits = torch.randn(1, channels, len(labels))
    logits[0, labels, torch.arange(len(labels))] += torch.linspace(9, 1, channels)[labels]
    fuzzy = FuzzyConfidence(kind(channels), momentum=0.5)
    fuzzy.add(output(logits), target(labels.view(1, 1, -1).float(), channels))
    fuzzy.refresh()
    rates = fuzzy.rates(2.5)
    assert rates[-1] == 1 and (rates[:-1] < 0.5).all()


def test_fused_indicators_leave_out_ignored_voxels():
    fuzzy = FuzzyConfidence(kind(2))
    fuzzy.add(ONE, truth([0, 2, 1], ignore=2))
    close(fuzzy.sums[1], (0.9, 0.7))
    fuzzy.add(ONE, truth([2, 2, 2], ignore=2))
    assert fuzzy.steps.tolist() == [1, 1]


def test_fused_indicators_of_regions_are_of_the_voxels_inside():
    fuzzy = FuzzyConfidence(kind(2, True))
    probs = torch.tensor([[0.9, 0.2, 0.3], [0.6, 0.3, 0.5]])[None]
    y = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])[None]
    fuzzy.add(output(probs.logit(), True), target(y, 2, True))
    entropy = (0.6 * log_sum(0.6, 0.4) + 0.3 * log_sum(0.3, 0.7)) / 2
    close(fuzzy.sums, ((0.9 * log_sum(0.9, 0.1), entropy), (0.9, 0.45), (0.0, 0.2)))


@pytest.mark.parametrize("made", [FuzzyConfidence, FuzzyConfidenceDHC])
def test_fused_indicators_of_an_overflow_are_not_taken(made):
    fuzzy = made(kind(2))
    fuzzy.add(ONE, truth([0, 1, 1]))
    before = fuzzy.sums.clone()
    fuzzy.add(prediction([[float("nan"), 0.1], [0.6, 0.4], [0.3, 0.7]]), truth([0, 1, 1]))
    assert torch.equal(fuzzy.sums, before) and fuzzy.steps.tolist() == [1, 1]


def test_sure_predictions_have_a_finite_entropy_in_half_precision():
    fuzzy = FuzzyConfidence(kind(2))
    with torch.autocast("cpu", torch.float16):
        sure = torch.tensor([1000.0, -1000.0], dtype=torch.float16).view(1, 2, 1).repeat(1, 1, 100_000)
        fuzzy.add(output(sure), target(torch.zeros(1, 1, 100_000), 2))
    assert fuzzy.sums[:, 0].tolist() == pytest.approx([math.log(1e-12), 1, 0], rel=1e-4)
