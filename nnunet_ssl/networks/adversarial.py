"""Against a network: images that are changed a little, and gradients that are turned round."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, autocast, nn

from nnunet_ssl.kinds import Kind, per_sample
from nnunet_ssl.networks.net import Output, run


def fast_gradient_sign(
    network: nn.Module, image: Tensor, kind: Kind, error: Callable[[Output], Tensor], epsilon: float
) -> Tensor:
    """x + epsilon sign(gradient of the error with respect to x), (B, channels, *spatial), without gradient.

    No parameter gets a gradient. The result is not cut to a range of values, for normalized images have none.

    Args:
        network: the plain network: neither DDP nor a compiled graph should see this forward.
        image: x, (B, channels, *spatial).
        kind: whether the network's channels are classes or regions.
        error: what the change shall raise, a scalar. Let it be a sum and not a mean over voxels: in half precision the
            gradient of a mean underflows.
        epsilon: change of every voxel, in units of the normalized image.

    Source: Goodfellow et al., "Explaining and Harnessing Adversarial Examples", ICLR 2015.
    """
    with torch.enable_grad():
        image = image.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(error(run(network, image, kind)), image)
    return image.detach() + epsilon * gradient.sign()


def virtual_adversarial(
    network: nn.Module, image: Tensor, kind: Kind, distance: Callable[[Output], Tensor], xi: float = 10.0
) -> Tensor:
    """The direction in which the prediction changes most, (B, channels, *spatial), of length 1 for each patch.

    One step of the power method: the gradient of the distance at a random direction of length xi. It is computed in
    float32, for it underflows in half precision; no parameter gets a gradient.

    Args:
        network: the plain network: neither DDP nor a compiled graph should see this forward.
        image: x, (B, channels, *spatial).
        kind: whether the network's channels are classes or regions.
        distance: of an output to the one for x, a scalar.
        xi: length of the random direction.

    Source: Miyato et al., "Virtual Adversarial Training", TPAMI 2019, eq. 11 to 13.
    """
    direction = unit_length(torch.rand_like(image, dtype=torch.float32) - 0.5)
    with torch.enable_grad(), autocast(image.device.type, enabled=False):
        direction.requires_grad_()
        moved = run(network, image.detach().float() + xi * direction, kind)
        (gradient,) = torch.autograd.grad(distance(moved), direction)
    return unit_length(gradient)


def unit_length(direction: Tensor) -> Tensor:
    """Each sample of a batch divided by its Euclidean length over all voxels and channels."""
    lengths = direction.flatten(1).norm(dim=1).clamp_min(1e-16)
    return direction / per_sample(lengths, direction)


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, coefficient: float) -> Tensor:
        ctx.coefficient = coefficient
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.coefficient * gradients[0], None


def reversed_gradient(features: Tensor, coefficient: float) -> Tensor:
    """The same features, whose gradient is multiplied by minus the coefficient on its way back.

    What reads them minimizes a loss that what makes them maximizes. Call it outside of compiled modules, where a
    coefficient that changes with every step would have each compiled anew.

    Source: Ganin et al., "Domain-Adversarial Training of Neural Networks", JMLR 2016.
    """
    reversed_: Tensor = _Reversed.apply(features, coefficient)
    return reversed_
