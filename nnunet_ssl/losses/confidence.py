"""Pseudo-labels that count only where the network is confident."""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_ssl.distributed import mean_over_ranks
from nnunet_ssl.losses.dice import weighted_dice
from nnunet_ssl.networks.net import Output
from nnunet_ssl.task import Task


def admitted_cross_entropy(output: Output, labels: Tensor, admitted: Tensor) -> Tensor:
    """Cross-entropy summed over admitted voxels and divided by the number of all voxels, in float32.

    The fewer voxels are admitted the smaller it is; 0 with zero gradient for none.

    Args:
        output: prediction, logits (B, C, *spatial).
        labels: class numbers (B, *spatial), or regions 0/1 (B, C, *spatial).
        admitted: which of them count, bool of the same shape.

    Source: Sohn et al., "FixMatch", NeurIPS 2020, eq. 4.
    """
    return (admitted * output.kind.cross_entropy(output.logits, labels)).mean()


def admitted_supervised(
    output: Output, labels: Tensor, admitted: Tensor, task: Task, of_admitted: bool = False
) -> Tensor:
    """nnU-Net's loss on pseudo-labels that count only where admitted, summed over the scales with nnU-Net's weights.

    At each scale `admitted_cross_entropy` plus nnU-Net's Dice of the admitted voxels, without the background; -1 with
    zero gradient for none. Lower scales take the nearest voxel's label, as nnU-Net does. Where the task has regions and
    an ignore label, the cross-entropy is summed over the regions, as in nnU-Net's loss there.

    Args:
        output: prediction, (B, C, *spatial) at full resolution.
        labels, admitted: as in `admitted_cross_entropy`, at full resolution.
        of_admitted: the cross-entropy is a mean over the admitted voxels and not over all, the Dice one over the
            samples that have any.
    """
    weights = task.scale_weights if len(output.pyramid) > 1 else (1.0,)
    total = output.logits.new_zeros((), dtype=torch.float32)
    kind, first = output.kind, output.kind.background
    for scale, weight in zip(output.by_scale(), weights, strict=True):
        if weight == 0:
            continue
        target, counted = (kind.nearest(each, scale.logits.shape[2:]) for each in (labels, admitted))
        loss = admitted_cross_entropy(scale, target, counted)
        if task.ignore_label is not None:
            loss = loss * kind.ignore_factor
        samples = None
        if of_admitted:
            samples = counted.flatten(1).any(1)
            loss = loss / mean_over_ranks(counted.float().mean()).clamp_min(1e-8)
        counted = kind.as_channels(counted)
        p, y = scale.probs[:, first:] * counted, kind.masks(target, first) * counted
        loss = loss + weighted_dice(p, y, p.new_ones(p.shape[1]), task.batch_dice, samples=samples)
        total = total + weight * loss
    return total


def admitted_shares(labels: Tensor, admitted: Tensor, task: Task) -> dict[str, Tensor]:
    """The share of voxels admitted, for reports: "admitted" of all, "admitted[name]" of the pseudo-label's own.

    0 for a channel without any. Scalars on the device.

    Args:
        labels: pseudo-labels, class numbers (B, *spatial) or regions 0/1 (B, C, *spatial).
        admitted: which of them count, bool of the same shape.
        task: names of the C channels.
    """
    of_all, found = task.kind.count(labels, counted=admitted), task.kind.count(labels)
    shares = of_all / found.clamp_min(1)
    per_channel = zip(task.channels, shares.float(), strict=True)
    return {"admitted": admitted.float().mean()} | {f"admitted[{name}]": share for name, share in per_channel}
