"""nnU-Net's own loss, as methods call it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nnunet_ssl.networks.net import Output
from nnunet_ssl.task import Target


class Supervised:
    """nnU-Net's loss over all scales of an output, with nnU-Net's weights.

    Args:
        loss: what nnU-Net built: takes logits and a target, or lists of them with deep supervision, when its own `loss`
            is that of one scale.
        deep_supervision: whether the loss is wrapped for lists.
    """

    def __init__(self, loss: Any, deep_supervision: bool):
        self.loss = loss
        self.deep_supervision = deep_supervision

    def __call__(self, output: Output, target: Target) -> Tensor:
        """The loss of an output and its target."""
        if not self.deep_supervision:
            return self.loss(output.logits, target.scales[0])
        if len(output.pyramid) == 1:  # a second network that has no such outputs
            return self.loss.loss(output.logits, target.scales[0])
        return self.loss(output.pyramid, list(target.scales))
