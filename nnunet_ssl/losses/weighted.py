"""nnU-Net's loss over all scales with a weight for each class."""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_ssl.losses.cross_entropy import cross_entropy
from nnunet_ssl.losses.dice import weighted_dice
from nnunet_ssl.losses.supervised import of_annotated
from nnunet_ssl.networks.net import Output
from nnunet_ssl.task import Target, Task


def weighted_supervised(output: Output, target: Target, weights: Tensor, task: Task) -> Tensor:
    """Weighted cross-entropy plus weighted Dice, summed over the scales with nnU-Net's scale weights.

    Args:
        output: prediction for a labeled batch.
        target: its target.
        weights: (C,), one per output channel; the Dice leaves the background out.
        task: batch Dice and scale weights.
    """
    total = torch.zeros((), device=weights.device)
    first = output.kind.background
    output, target = of_annotated(output, target)
    for scale, goal, scale_weight in zip(output.by_scale(), target.by_scale(), task.scale_weights, strict=True):
        if scale_weight == 0:
            continue
        loss = cross_entropy(scale, goal.labels, weights, goal.annotated)
        y = goal.kind.masks(goal.labels, first)
        dice = weighted_dice(scale.probs[:, first:], y, weights[first:], task.batch_dice, goal.annotated)
        total = total + scale_weight * (loss + dice)
    return total
