"""Divergences of known distributions, with their gradients."""

import math

import pytest
import torch
from workbench import output

from nnunet_ssl.losses.divergence import jensen_shannon, kl, soft_cross_entropy, symmetric_kl

ALL = pytest.mark.parametrize("divergence", [kl, jensen_shannon, symmetric_kl])


def voxel(*logits) -> torch.Tensor:
    return torch.tensor(logits).view(1, -1, 1).requires_grad_()


def of(*probs) -> torch.Tensor:
    return voxel(*(math.log(p) for p in probs))


def near(tensor, *expected):
    torch.testing.assert_close(tensor.flatten(), torch.tensor(expected), atol=1e-6, rtol=0)


def test_jensen_shannon_of_probabilities():
    skewed, even = of(0.9, 0.1), of(0.5, 0.5)
    assert jensen_shannon(output(skewed), output(even)).item() == pytest.approx(0.101749, abs=1e-6)
    assert jensen_shannon(output(skewed), output(skewed)).item() == pytest.approx(0, abs=1e-7)
    certain = voxel(200.0, 0.0), voxel(0.0, 200.0)
    assert jensen_shannon(*map(output, certain)).item() == pytest.approx(0.693147, abs=1e-6)


def test_jensen_shannon_of_logits_and_its_gradients():
    first, second = voxel(2.0, 0.0), voxel(0.0, 0.0)
    divergence = jensen_shannon(output(first), output(second))
    assert divergence.item() == pytest.approx(0.089541, abs=1e-6)
    divergence.backward()
    near(first.grad, 0.062892, -0.062892)
    near(second.grad, -0.100248, 0.100248)


@pytest.mark.parametrize("regions", [False, True])
def test_soft_cross_entropy_is_divergence_plus_the_targets_entropy(regions):
    torch.manual_seed(0)
    target, said = (output(3 * torch.randn(2, 3, 4, 4), regions) for _ in range(2))
    entropy = target.kind.of_channels(target.kind.entropy_of_logits(target.logits))
    torch.testing.assert_close(soft_cross_entropy(target, said), kl(target, said) + entropy)


def test_symmetric_kl_of_logits_and_its_gradients():
    first, second = voxel(2.0, 0.0), voxel(0.0, 0.0)
    divergence = symmetric_kl(output(first), output(second))
    assert divergence.item() == pytest.approx(0.380797, abs=1e-6)
    divergence.backward()
    assert first.grad[0, 0, 0] > 0 > second.grad[0, 0, 0]
    assert first.grad[0, 1, 0] < 0 < second.grad[0, 1, 0]


def test_symmetric_kl_is_the_mean_of_both_directions():
    torch.manual_seed(0)
    first, second = 3 * torch.randn(2, 5, 4, 4), 3 * torch.randn(2, 5, 4, 4)
    for regions in (False, True):
        both = (
            kl(output(first, regions), output(second, regions)) + kl(output(second, regions), output(first, regions))
        ) / 2
        torch.testing.assert_close(symmetric_kl(output(first, regions), output(second, regions)), both)


def test_kl_is_the_cross_entropy_less_the_entropy():
    target, logits = voxel(0.0, 1.0), voxel(2.0, 0.0)
    log_p = output(target).kind.log_probs(target)
    entropy = -(log_p.exp() * log_p).sum()
    assert (kl(output(target), output(logits)) + entropy).item() == pytest.approx(1.589045, abs=1e-6)
    assert kl(output(target), output(logits)).item() != pytest.approx(
        kl(output(logits), output(target)).item(), abs=0.1
    )


@pytest.mark.parametrize("divergence", [jensen_shannon, symmetric_kl])
def test_symmetric_in_the_arguments(divergence):
    torch.manual_seed(0)
    first, second = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    torch.testing.assert_close(divergence(output(first), output(second)), divergence(output(second), output(first)))


@ALL
@pytest.mark.parametrize("regions", [False, True])
def test_equal_predictions_are_at_distance_zero_without_gradient(divergence, regions):
    torch.manual_seed(0)
    first = torch.randn(2, 3, 4).requires_grad_()
    second = first.detach().clone().requires_grad_()
    distance = divergence(output(first, regions), output(second, regions))
    assert distance.shape == ((2, 3, 4) if regions else (2, 4))
    assert distance.abs().max() < 1e-6
    distance.sum().backward()
    assert first.grad.abs().max() < 1e-6 and second.grad.abs().max() < 1e-6


@ALL
def test_a_constant_on_all_classes_of_a_voxel_changes_nothing(divergence):
    torch.manual_seed(0)
    first, second, shift = torch.randn(2, 3, 4), torch.randn(2, 3, 4), torch.randn(2, 1, 4)
    before = divergence(output(first), output(second))
    torch.testing.assert_close(divergence(output(first + shift), output(second)), before, atol=1e-6, rtol=1e-5)


@ALL
def test_a_region_is_a_pair_of_classes(divergence):
    torch.manual_seed(0)
    first, second = 2 * torch.randn(2, 1, 5), 2 * torch.randn(2, 1, 5)
    pairs = [torch.cat((logits, torch.zeros_like(logits)), 1) for logits in (first, second)]
    torch.testing.assert_close(
        divergence(output(first, True), output(second, True))[:, 0], divergence(*map(output, pairs))
    )


@ALL
@pytest.mark.parametrize("regions", [False, True])
def test_half_precision_and_extreme_logits_are_finite(divergence, regions):
    first = torch.tensor([[60000.0, -60000.0]], dtype=torch.float16)[..., None].requires_grad_()
    second = torch.tensor([[-60000.0, 60000.0]], dtype=torch.float16)[..., None].requires_grad_()
    distance = divergence(output(first, regions), output(second, regions))
    assert distance.dtype == torch.float32
    assert torch.isfinite(distance).all() and (distance > 0).all()
    distance.sum().backward()
    assert torch.isfinite(first.grad).all() and torch.isfinite(second.grad).all()
