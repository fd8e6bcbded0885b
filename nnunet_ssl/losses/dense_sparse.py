"""Losses on labels that were carried from two annotated planes of a scan and count less the farther they were."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from nnunet_ssl.losses.dice import squared_dice
from nnunet_ssl.method import Labeled
from nnunet_ssl.networks.net import Output
from nnunet_ssl.task import Target, Task


def carried(labeled: Labeled, alpha: float) -> tuple[tuple[Target, Tensor], tuple[Target, Tensor]]:
    """Targets and voxel weights of two networks, one for each plane, weights (B, 1, *spatial).

    Each has the labels carried from its own plane, which weigh alpha^d at d voxels from it, and on the other plane what
    is annotated there, which weighs 1; beyond the scan the weight is 0. A case labeled in full has its labels twice.

    Args:
        labeled: with the maps of `nnunet_ssl.data.propagated.read_maps`, or without any.
        alpha: in [0, 1].
    """
    target, maps = labeled.target, labeled.maps
    known = target.where_annotated(torch.ones_like(target.full[:, :1], dtype=torch.bool)).float()
    if maps is None or maps.shape[1] == 0:
        return (target, known), (target, known)
    channels = (maps.shape[1] - 3) // 2
    first, second, to_first, to_second, inside = maps.split([channels, channels, 1, 1, 1], 1)
    sparse = (inside > 0.5).flatten(1).any(1).view(-1, *[1] * (maps.ndim - 1))

    def of(own: Tensor, other: Tensor, to_own: Tensor, to_other: Tensor) -> tuple[Target, Tensor]:
        on_other = to_other < 0.5
        full = target.form(_labels_of(torch.where(on_other, other, own), target))
        weights = inside * torch.where(on_other, 1.0, alpha**to_own)
        return target.resized(torch.where(sparse, full, target.full)), torch.where(sparse, weights, known)

    return of(first, second, to_first, to_second), of(second, first, to_second, to_first)


def _labels_of(masks: Tensor, target: Target) -> Tensor:
    """Labels of the masks of foreground channels (B, K, *spatial), which interpolation has made soft."""
    if not target.kind.background:
        return (masks > 0.5).float()
    return torch.cat((1 - masks.sum(1, keepdim=True), masks), 1).max(1).indices


def dense_sparse(output: Output, target: Target, weights: Tensor, task: Task) -> Tensor:
    """Half of weighted cross-entropy and weighted Dice with squares, summed over the scales with nnU-Net's weights.

    Args:
        output: prediction for a labeled batch.
        target: its target, each voxel of which has a label.
        weights: of the voxels, (B, 1, *spatial) at full resolution; lower scales have their means.
        task: scale weights.

    Source: Cai et al., "Orthogonal Annotation Benefits Barely-supervised Medical Image Segmentation", CVPR 2023.
    """
    total, first = weights.new_zeros(()), output.kind.background
    for scale, goal, share in zip(output.by_scale(), target.by_scale(), task.scale_weights, strict=True):
        if share == 0:
            continue
        voxels = F.interpolate(weights, scale.logits.shape[2:], mode="area")
        ce = mean_per_patch(scale.kind.cross_entropy(scale.logits, goal.labels), scale.kind.spread(voxels[:, 0]))
        y = goal.kind.masks(goal.labels, first).float()
        total = total + share * (ce + squared_dice(scale.probs[:, first:], y, weights=voxels)) / 2
    return total


def mean_per_patch(values: Tensor, weights: Tensor) -> Tensor:
    """sum w v / sum w of each patch, 0 where that is 0; the mean over patches. Of voxel maps."""
    sums = torch.stack([weights * values, weights.expand_as(values)]).flatten(2).sum(2)
    return (sums[0] / sums[1].clamp_min(1e-5)).mean()
