"""nnU-Net's own loss, as methods call it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from nnunet_ssl.networks.net import Output
from nnunet_ssl.task import Target, at_scale


def of_annotated(output: Output, target: Target) -> tuple[Output, Target]:
    """Both such that a loss of the two is a loss of what was annotated.

    Where a class was not annotated it and the background are one, see `Kind.merged`; the target then lacks nothing.
    """
    if target.missing is None:
        return output, target
    pyramid = [output.kind.merged(scale, at_scale(target.missing, scale.shape[2:])) for scale in output.pyramid]
    return Output(pyramid, output.kind), replace(target, missing=None)


class Supervised:
    """nnU-Net's loss over all scales of an output, with nnU-Net's weights; of what was annotated alone.

    The Dice of a channel that was not annotated counts as 1, without gradient.

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
        output, target = of_annotated(output, target)
        loss = self.loss if target.ignore_label is None else self.partial_loss
        if not self.deep_supervision:
            return loss(output.logits, target.scales[0])
        if len(output.pyramid) == 1:  # a second network that has no such outputs
            return loss.loss(output.logits, target.scales[0])
        return loss(output.pyramid, list(target.scales))
