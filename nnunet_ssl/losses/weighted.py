"""nnU-Net's loss over all scales with a weight for each class."""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_ssl.losses.cross_entropy import cross_entropy
from nnunet_ssl.losses.dice import weighted_dice
from nnunet_ssl.networks.net import Output
from nnunet_ssl.task import Task


def weighted_supervised(output: Output, target: Tensor | list[Tensor], weights: Tensor, task: Task) -> Tensor:
    """Weighted cross-entropy plus weighted Dice, summed over the scales with nnU-Net's scale weights.

    Args:
        output: prediction for a labeled batch.
        target: as nnU-Net makes it, one tensor per scale.
        weights: (C,), one per output channel; the Dice leaves the background out.
        task: regions, ignore label, batch Dice and scale weights.
    """
    scales = target if isinstance(target, list) else [target]
    total = torch.zeros((), device=weights.device)
    for logits, scale, scale_weight in zip(output.pyramid, scales, task.scale_weights, strict=True):
        if scale_weight == 0:
            continue
        labels, valid = task.split_target(scale)
        loss = cross_entropy(logits, labels, output.regions, weights, valid)
        probs, kept = Output([logits], output.regions).probs, weights
        if not output.regions:
            foreground = torch.arange(1, len(weights), device=labels.device).view(1, -1, *[1] * (labels.ndim - 1))
            probs, labels, kept = probs[:, 1:], labels[:, None] == foreground, weights[1:]
        total = total + scale_weight * (loss + weighted_dice(probs, labels, kept, task.batch_dice, valid))
    return total
