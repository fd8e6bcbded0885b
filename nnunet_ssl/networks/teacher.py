"""The mean teacher: an exponential moving average of the student's weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from nnunet_ssl.networks.net import Net, Output, run, set_deep_supervision
from nnunet_ssl.schedules import ema_decay


class Teacher(nn.Module):
    """EMA copy of the student: always in evaluation mode, without gradient, full-resolution output only.

    Parameters and floating-point buffers are averaged, other buffers copied. The first update (step 0) copies.

    Args:
        net: the student.
        decay: limit of the EMA decay (`alpha` of the Mean Teacher paper).
    """

    def __init__(self, net: Net, decay: float):
        super().__init__()
        self.module = copy.deepcopy(net.module).requires_grad_(False)
        self.kind = net.kind
        self.decay = decay
        set_deep_supervision(self.module, False)
        self.eval()

    def train(self, mode: bool = True) -> Teacher:
        """A teacher has no training mode: whatever its owner is switched to, it stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, image: Tensor) -> Output:
        """Prediction for (B, channels, *spatial), without gradient."""
        return run(self.module, image, self.kind)

    @torch.no_grad()
    def update(self, net: Net, step: int) -> None:
        """teacher <- alpha teacher + (1 - alpha) student, after the optimizer's step number `step` (0-based)."""
        averaged, source = [], []
        for mine, theirs in _pairs(self.module, net.module):
            if mine.is_floating_point():
                averaged.append(mine)
                source.append(theirs)
            else:
                mine.copy_(theirs)
        torch._foreach_lerp_(averaged, source, 1.0 - ema_decay(step, self.decay))

    def copy_weights(self, net: Net) -> None:
        """Makes the teacher equal to the student, as before the first step."""
        self.update(net, step=0)


def _pairs(first: nn.Module, second: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    """Parameters and buffers of two networks of one architecture, side by side, each tensor once."""
    yield from zip(first.parameters(), second.parameters(), strict=True)
    yield from zip(first.buffers(), second.buffers(), strict=True)
