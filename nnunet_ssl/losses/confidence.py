"""Pseudo-labels that count only where the network is confident."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from nnunet_ssl.distributed import mean_over_ranks
from nnunet_ssl.losses.dice import weighted_dice
from nnunet_ssl.memory.class_weights import count_channels
from nnunet_ssl.networks.net import Output
from nnunet_ssl.task import Task


def confidence(output: Output) -> Tensor:
    """Probability of the hard label: largest class (B, *spatial), or max(p, 1 - p) for regions (B, C, *spatial)."""
    probs = output.probs.detach()
    return torch.maximum(probs, 1 - probs) if output.regions else probs.amax(1)


def admitted_cross_entropy(logits: Tensor, labels: Tensor, admitted: Tensor, regions: bool) -> Tensor:
    """Cross-entropy summed over admitted voxels and divided by the number of all voxels, in float32.

    The fewer voxels are admitted the smaller it is; 0 with zero gradient for none.

    Args:
        logits: (B, C, *spatial).
        labels: class numbers (B, *spatial), or regions 0/1 (B, C, *spatial).
        admitted: which of them count, bool of the same shape.
        regions: whether the channels are regions.

    Source: Sohn et al., "FixMatch", NeurIPS 2020, eq. 4.
    """
    logits = logits.float()
    if regions:
        losses = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    else:
        losses = F.cross_entropy(logits, labels, reduction="none")
    return (admitted * losses).mean()


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
    for logits, weight in zip(output.pyramid, weights, strict=True):
        if weight == 0:
            continue
        target, counted = (nearest(each, logits.shape[2:], output.regions) for each in (labels, admitted))
        loss = admitted_cross_entropy(logits, target, counted, output.regions)
        if output.regions and task.ignore_label is not None:
            loss = loss * logits.shape[1]
        samples = None
        if of_admitted:
            samples = counted.flatten(1).any(1)
            loss = loss / mean_over_ranks(counted.float().mean()).clamp_min(1e-8)
        probs = Output([logits], output.regions).probs
        if not output.regions:
            foreground = torch.arange(1, probs.shape[1], device=probs.device).view(1, -1, *[1] * (target.ndim - 1))
            probs, target, counted = probs[:, 1:], target[:, None] == foreground, counted[:, None]
        probs, target = probs * counted, target * counted
        dice = weighted_dice(probs, target, probs.new_ones(probs.shape[1]), task.batch_dice, samples=samples)
        total = total + weight * (loss + dice)
    return total


def nearest(volume: Tensor, size: torch.Size, regions: bool) -> Tensor:
    """Labels or a mask, (B, *spatial) or for regions (B, C, *spatial), at another resolution by the nearest voxel."""
    channels = volume if regions else volume[:, None]
    resized = F.interpolate(channels.float(), size, mode="nearest-exact").to(volume.dtype)
    return resized if regions else resized[:, 0]


def admitted_shares(labels: Tensor, admitted: Tensor, channels: tuple[str, ...], regions: bool) -> dict[str, Tensor]:
    """The share of voxels admitted, for reports: "admitted" of all, "admitted[name]" of the pseudo-label's own.

    0 for a channel without any. Scalars on the device.

    Args:
        labels: pseudo-labels, class numbers (B, *spatial) or regions 0/1 (B, C, *spatial).
        admitted: which of them count, bool of the same shape.
        channels: names of the C channels.
        regions: which of the two.
    """
    kept = labels * admitted if regions else torch.where(admitted, labels, -1)
    found = count_channels(labels, len(channels), regions)
    shares = count_channels(kept, len(channels), regions) / found.clamp_min(1)
    per_channel = zip(channels, shares.float(), strict=False)  # counts of regions have one entry more
    return {"admitted": admitted.float().mean()} | {f"admitted[{name}]": share for name, share in per_channel}
