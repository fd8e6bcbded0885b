"""The confidence where a class is true against the numbers of its formula."""

import pytest
import torch
from workbench import kind, target

from nnunet_ssl.memory.class_confidence import ClassConfidence


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
