"""Two networks that predict as one, and weights that move towards the mean of others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Average(nn.Module):
    """The mean of the logits of two networks of one architecture, scale by scale, as nnU-Net averages folds.

    Its weights are named `first.*` and `second.*`.
    """

    def __init__(self, first: nn.Module, second: nn.Module):
        super().__init__()
        self.first = first
        self.second = second

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        """Logits (B, C, *spatial), or a list of them over the scales of deep supervision."""
        first, second = self.first(image), self.second(image)
        if isinstance(first, (list, tuple)):
            return [(a + b) / 2 for a, b in zip(first, second, strict=True)]
        return (first + second) / 2


@torch.no_grad()
def approach(network: nn.Module, others: Sequence[nn.Module], share: float) -> None:
    """Each parameter <- (1 - share) itself + share (mean of the others' of this name), in place.

    Args:
        network: may have parameters that the others lack, which stay as they are.
        others: with parameters of the same names.
        share: of 0..1.
    """
    names = [name for name, _ in others[0].named_parameters()]
    mean = [torch.zeros_like(network.get_parameter(name)) for name in names]
    for other in others:
        torch._foreach_add_(mean, [other.get_parameter(name) for name in names], alpha=1 / len(others))
    torch._foreach_lerp_([network.get_parameter(name) for name in names], mean, share)
