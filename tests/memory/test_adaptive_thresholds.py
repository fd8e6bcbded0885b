"""Adaptive thresholds against the numbers of their formulas."""

import pytest
import torch
from workbench import output

from nnunet_ssl.memory.adaptive_thresholds import BINS, AdaptiveThresholds, ScoreThresholds, at_least, counted

PROBS = [
    (0.95, 0.03, 0.02), (0.92, 0.05, 0.03), (0.60, 0.3, 0.1), (0.85, 0.1, 0.05),
    (0.2, 0.7, 0.1), (0.3, 0.55, 0.15), (0.1, 0.3, 0.6), (0.45, 0.4, 0.15),
]  # fmt: skip


def says(probs, regions=False):
    """A prediction with these probabilities of voxels."""
    probs = torch.tensor(probs).T[None]
    return output(probs.logit() if regions else probs.log(), regions)


def ready(made=AdaptiveThresholds, probs=PROBS, majority=0.9, regions=False):
    prediction = says(probs, regions)
    thresholds = made(prediction.kind, majority)
    thresholds.record(prediction)
    return thresholds, prediction


def close(actual, expected, tolerance=1e-6):
    torch.testing.assert_close(actual, torch.tensor(expected), atol=tolerance, rtol=0)


def test_the_share_of_the_majority_class_passes_of_every_class():
    """n = (5, 2, 1) and rho = 2/5 keep (2, 1, 1): from .92, .7 and .6, of which the first is no more than tau_1."""
    thresholds, prediction = ready()
    assert thresholds.histogram.sum(1).tolist() == [5, 2, 1]
    assert thresholds.rho(thresholds.histogram.sum(1)).tolist() == [0.4]
    close(thresholds.bin_of(torch.tensor([2.0, 1.0, 1.0])) / BINS, (0.92, 0.7, 0.6), 1 / BINS + 1e-6)
    thresholds.refresh()
    close(thresholds.thresholds, (0.9, 0.7, 0.6))
    assert thresholds.admitted(prediction)[0].nonzero().flatten().tolist() == [0, 1, 4, 6]
    assert not thresholds.histogram.any()


def test_before_the_first_update_all_pass():
    for made in (AdaptiveThresholds, ScoreThresholds):
        thresholds, prediction = ready(made)
        assert thresholds.admitted(prediction).all()


def test_a_class_without_pseudo_labels_keeps_its_threshold():
    thresholds, _ = ready()
    thresholds.refresh()
    thresholds.record(says([(0.95, 0.03, 0.02), (0.5, 0.3, 0.2)]))  # rho = 1/2
    thresholds.refresh()
    close(thresholds.thresholds, (0.9, 0.7, 0.6))
    thresholds.refresh()
    close(thresholds.thresholds, (0.9, 0.7, 0.6))


def test_thresholds_lie_between_a_guess_and_that_of_the_majority_class():
    certain, _ = ready(probs=[(0.99, 0.01, 0.0), (0.98, 0.02, 0.0), (0.03, 0.97, 0.0)])
    certain.refresh()
    close(certain.thresholds, (0.9, 0.9, 0.0))
    unsure, prediction = ready(probs=[(0.3334, 0.3333, 0.3333)] * 2)
    unsure.refresh()
    close(unsure.thresholds, (1 / 3, 0.0, 0.0))
    assert unsure.admitted(prediction).all()


@pytest.mark.parametrize("majority", [0.0, 1.0])
def test_where_none_or_all_of_the_majority_class_pass(majority):
    """None: a thousandth of each class, one voxel here, and no more than tau_1."""
    thresholds, prediction = ready(majority=majority)
    thresholds.refresh()
    expected = (0.95, 0.7, 0.6) if majority else (0.0, 0.0, 0.0)
    close(thresholds.thresholds, expected)
    assert thresholds.admitted(prediction).sum() == (3 if majority else 8)


def test_of_dhcs_code():
    """The third largest score of class 0, .85, and the largest ones of the others, which do not pass themselves."""
    thresholds, prediction = ready(ScoreThresholds)
    assert thresholds.labels.tolist() == [5, 2, 1]
    assert thresholds.rho(thresholds.labels).tolist() == [0.4]
    thresholds.refresh()
    close(thresholds.thresholds, (0.85, 0.7, 0.6), 1 / BINS + 1e-6)
    assert thresholds.admitted(prediction)[0].nonzero().tolist() == [[0, 0], [0, 1]]
    assert not thresholds.labels.any() and not thresholds.histogram.any()


def test_of_dhcs_code_nothing_of_a_class_without_pseudo_labels_passes():
    thresholds, prediction = ready(ScoreThresholds, [(0.95, 0.04, 0.01), (0.6, 0.3, 0.1), (0.3, 0.6, 0.1)])
    thresholds.refresh()
    assert not thresholds.admitted(prediction)[:, 2].any()


def test_of_dhcs_code_one_class_alone_gives_no_index_error():
    thresholds, prediction = ready(ScoreThresholds, [(0.95, 0.05), (0.99, 0.01)])
    thresholds.refresh()
    assert thresholds.admitted(prediction)[:, 0].all()


def test_inside_and_outside_of_regions():
    """Outside of region 1 is the majority: of 4 voxels 2 pass, so half of all others, too."""
    thresholds, prediction = ready(probs=[(0.9, 0.05), (0.6, 0.02), (0.2, 0.3), (0.8, 0.4)], regions=True)
    assert thresholds.histogram.sum(1).tolist() == [3, 0, 1, 4]
    thresholds.refresh()
    close(thresholds.thresholds, (0.8, 0.0, 0.8, 0.9), 1 / BINS + 1e-6)
    assert thresholds.admitted(prediction)[0].tolist() == [[True, False, True, True], [True, True, False, False]]


@pytest.mark.parametrize("made", [AdaptiveThresholds, ScoreThresholds])
@pytest.mark.parametrize("regions", [False, True])
def test_a_step_that_overflowed_leaves_no_trace(made, regions):
    thresholds, _ = ready(made, regions=regions)
    before = {name: value.clone() for name, value in thresholds.state_dict().items()}
    thresholds.record(output(torch.full((1, 3, 8), torch.nan), regions))
    assert all(torch.equal(value, before[name]) for name, value in thresholds.state_dict().items())


def test_histograms_against_plain_loops():
    torch.manual_seed(0)
    values, classes = torch.rand(2, 7, 5), torch.randint(0, 3, (2, 7, 5))
    values[0, 0, :2] = torch.tensor([0.0, 1.0])
    found = counted(values, classes, 3)
    expected = torch.zeros(3, BINS, dtype=torch.float64)
    for value, k in zip(values.flatten(), classes.flatten(), strict=True):
        expected[k, min(int(value * BINS), BINS - 1)] += 1
    assert torch.equal(found, expected)
    assert at_least(found)[:, 0].tolist() == [(classes == k).sum() for k in range(3)]


def test_quantiles_are_exact_to_a_bin_for_many_voxels():
    torch.manual_seed(0)
    prediction = output(3 * torch.randn(1, 4, 100, 100))
    thresholds = AdaptiveThresholds(prediction.kind, 0.9)
    thresholds.record(prediction)
    thresholds.refresh()
    confidence, labels = prediction.probs.max(1)
    n = labels.flatten().bincount()
    rho = (confidence[labels == n.argmax()] >= 0.9).float().mean()
    for k in range(4):
        of_class = confidence[labels == k].sort(descending=True)[0]
        exact = of_class[int(torch.ceil(rho * n[k])) - 1].clamp(0.25, 0.9)
        assert thresholds.thresholds[k].item() == pytest.approx(exact.item(), abs=2 / BINS)
