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
        partial_loss: for targets with an ignore label where the data set has none: pseudo-labels that leave voxels out.
            nnU-Net's cross entropy is then the sum over regions, not the mean, and weighs more than without one.
    """

    def __init__(self, loss: Any, deep_supervision: bool, partial_loss: Any = None):
        self.loss = loss
        self.partial_loss = partial_loss or loss
        self.deep_supervision = deep_supervision

    def __call__(self, output: Output, target: Target) -> Tensor:
        """The loss of an output and its target."""
        loss = self.loss if target.ignore_label is None else self.partial_loss
        if not self.deep_supervision:
            return loss(output.logits, target.scales[0])
        if len(output.pyramid) == 1:  # a second network that has no such outputs
            return loss.loss(output.logits, target.scales[0])
        return loss(output.pyramid, list(target.scales))
