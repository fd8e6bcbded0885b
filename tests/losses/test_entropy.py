"""Entropy of known distributions."""

import math

import pytest
import torch

from nnunet_ssl.losses.entropy import entropy, entropy_of_logits, max_entropy


@pytest.mark.parametrize(
    ("probs", "expected"),
    [
        ((0.9, 0.1), 0.325081),
        ((0.8, 0.2), 0.500400),
        ((0.7, 0.3), 0.610862),
        ((0.6, 0.4), 0.673010),
        ((0.5, 0.5), 0.693145),
        ((0.25,) * 4, 1.386290),
    ],
)
def test_entropy_over_classes(probs, expected):
    assert entropy(torch.tensor(probs).view(1, -1, 1), False).item() == pytest.approx(expected, abs=1e-6)


def test_regions_are_binary_per_channel():
    result = entropy(torch.tensor([0.9, 0.5]).view(1, 2, 1), True).flatten()
    torch.testing.assert_close(result, torch.tensor([0.325081, 0.693145]), atol=3e-6, rtol=0)


def test_certain_voxels_are_finite():
    assert entropy(torch.tensor([1.0, 0.0]).view(1, 2, 1), False).item() == pytest.approx(0, abs=2e-6)


def test_largest_entropy():
    assert max_entropy(4, False) == pytest.approx(math.log(4))
    assert max_entropy(4, True) == pytest.approx(math.log(2))


@pytest.mark.parametrize("regions", [False, True])
def test_of_logits_equals_that_of_probabilities(regions):
    torch.manual_seed(0)
    logits = 2 * torch.randn(2, 4, 3, 3)
    probs = logits.sigmoid() if regions else logits.softmax(1)
    result = entropy_of_logits(logits, regions)
    assert result.shape == ((2, 4, 3, 3) if regions else (2, 1, 3, 3))
    torch.testing.assert_close(result, entropy(probs, regions), atol=1e-5, rtol=0)


def test_gradient_of_logits():
    """-p_c (ln p_c + H) for classes, -z p (1 - p) for a region."""
    torch.manual_seed(0)
    logits = torch.randn(1, 3, 5, requires_grad=True)
    entropy_of_logits(logits, False).sum().backward()
    p = logits.detach().softmax(1)
    expected = -p * (p.log() - (p * p.log()).sum(1, keepdim=True))
    torch.testing.assert_close(logits.grad, expected)
    logits.grad = None
    entropy_of_logits(logits, True).sum().backward()
    p = logits.detach().sigmoid()
    torch.testing.assert_close(logits.grad, -logits.detach() * p * (1 - p))


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("values", [(200.0, 0.0), (60000.0, -60000.0)])
def test_certain_logits_are_zero_and_finite(values, regions):
    logits = torch.tensor(values).view(1, 2, 1).requires_grad_()
    result = entropy_of_logits(logits, regions)
    assert (result[0, 0] == 0).all()
    result.sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_half_precision_is_computed_in_float32():
    logits = torch.tensor([12.0, 0.0], dtype=torch.float16).view(1, 2, 1)
    exact = entropy_of_logits(logits.double().float(), False).item()
    assert entropy_of_logits(logits, False).dtype == torch.float32
    assert entropy_of_logits(logits, False).item() == exact > 0
