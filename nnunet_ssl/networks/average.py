"""Two networks that predict as one."""

from __future__ import annotations

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
