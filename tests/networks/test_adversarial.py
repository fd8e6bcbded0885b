"""The attack changes every voxel by epsilon, raises the error and leaves the network alone."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nnunet_ssl.networks.adversarial import fast_gradient_sign, reversed_gradient

EPSILON = 0.03


def error_for(target):
    return lambda output: F.cross_entropy(output.logits.float(), target, reduction="sum")


@pytest.mark.parametrize("dimensions", [2, 3])
def test_every_change_is_epsilon_or_zero(tiny_net, dimensions):
    network = tiny_net(dimensions, 3).module
    torch.manual_seed(0)
    image = torch.randn(2, 1, *[16] * dimensions)
    target = torch.randint(3, (2, *[16] * dimensions))
    attacked = fast_gradient_sign(network, image, False, error_for(target), EPSILON)
    change = (attacked - image).abs()
    assert ((change - EPSILON).abs().lt(1e-6) | (change == 0)).all()
    assert (change > 0).float().mean() > 0.99
    assert not attacked.requires_grad


@pytest.mark.parametrize("epsilon", [0.001, 0.03])
def test_a_linear_model_errs_more(epsilon):
    torch.manual_seed(0)
    model = nn.Conv2d(2, 3, 1)
    image, target = torch.randn(2, 2, 8, 8), torch.randint(3, (2, 8, 8))
    attacked = fast_gradient_sign(model, image, False, error_for(target), epsilon)
    before = F.cross_entropy(model(image), target, reduction="none")
    after = F.cross_entropy(model(attacked), target, reduction="none")
    assert (after > before).all()


def test_parameters_and_their_gradients_and_the_image_are_untouched(tiny_net):
    network = tiny_net(2, 3).module
    torch.manual_seed(0)
    image, target = torch.randn(2, 1, 16, 16), torch.randint(3, (2, 16, 16))
    network(image)[0].sum().backward()
    before = {name: None if p.grad is None else p.grad.clone() for name, p in network.named_parameters()}
    same = image.clone()
    fast_gradient_sign(network, image, False, error_for(target), EPSILON)
    assert torch.equal(image, same) and not image.requires_grad and image.grad is None
    for name, parameter in network.named_parameters():
        if before[name] is None:
            assert parameter.grad is None
        else:
            assert torch.equal(parameter.grad, before[name])
        assert parameter.requires_grad


@torch.no_grad()
def test_works_where_gradients_are_off(tiny_net):
    image, target = torch.randn(1, 1, 16, 16), torch.randint(2, (1, 16, 16))
    attacked = fast_gradient_sign(tiny_net().module, image, False, error_for(target), EPSILON)
    assert not torch.equal(attacked, image)


def test_the_signs_survive_half_precision(tiny_net):
    network = tiny_net(2, 3).module
    torch.manual_seed(0)
    image, target = torch.randn(2, 1, 64, 64), torch.randint(3, (2, 64, 64))
    with torch.autocast("cpu", torch.float16):
        attacked = fast_gradient_sign(network, image, False, error_for(target), EPSILON)
    exact = fast_gradient_sign(network, image, False, error_for(target), EPSILON)
    assert attacked.dtype == torch.float32
    assert (attacked != image).float().mean() > 0.99
    assert ((attacked - image).sign() == (exact - image).sign()).float().mean() > 0.98


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16])
def test_a_reversed_gradient_leaves_values_alone_and_turns_the_gradient_round(precision):
    x = torch.tensor([0.1, -7.0, 6e4], dtype=precision, requires_grad=True)
    assert torch.equal(reversed_gradient(x, 0.046211716), x)
    (gradient,) = torch.autograd.grad((3 * reversed_gradient(x, 0.046211716)).sum(), x)
    torch.testing.assert_close(
        gradient.float(), torch.full((3,), -0.138635), atol=1e-6, rtol=torch.finfo(precision).eps
    )
    (gradient,) = torch.autograd.grad(reversed_gradient(x, 0.0).sum(), x)
    assert not gradient.any()
