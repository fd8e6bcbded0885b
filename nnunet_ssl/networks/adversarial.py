"""Images that are changed a little, against a network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from nnunet_ssl.networks.net import Output, run


def fast_gradient_sign(
    network: nn.Module, image: Tensor, regions: bool, error: Callable[[Output], Tensor], epsilon: float
) -> Tensor:
    """x + epsilon sign(gradient of the error with respect to x), (B, channels, *spatial), without gradient.

    No parameter gets a gradient. The result is not cut to a range of values, for normalized images have none.

    Args:
        network: the plain network: neither DDP nor a compiled graph should see this forward.
        image: x, (B, channels, *spatial).
        regions: whether the network's channels are regions.
        error: what the change shall raise, a scalar. Let it be a sum and not a mean over voxels: in half precision the
            gradient of a mean underflows.
        epsilon: change of every voxel, in units of the normalized image.

    Source: Goodfellow et al., "Explaining and Harnessing Adversarial Examples", ICLR 2015.
    """
    with torch.enable_grad():
        image = image.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(error(run(network, image, regions)), image)
    return image.detach() + epsilon * gradient.sign()
