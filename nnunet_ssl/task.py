"""What a method may know of the data set and of nnU-Net's loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Task:
    """What a method may know of the data set and of nnU-Net's loss.

    Attributes:
        channels: names of the output channels: classes, the background first, or regions.
        regions: whether the channels are regions (sigmoid).
        ignore_label: the label that targets use for unannotated voxels; with regions, targets have one more channel.
        batch_dice: whether nnU-Net's Dice sums over the batch.
        scale_weights: weights of nnU-Net's loss over the scales of deep supervision.
        image_channels: number of channels of the images.
        unlabeled_batch_size: unlabeled patches per step (of this process).
        patch_size: voxels of a training patch along each axis.
        spacing: mm between voxels along each axis.
        mirror_axes: spatial axes, from 0, along which nnU-Net mirrors.
        labeled_cases: ids of the labeled training cases.
        voxel_counts: counts the voxels of each channel over the labeled training cases, (C,) float64; with regions
            one more entry, for voxels in none of them.
    """

    channels: tuple[str, ...]
    regions: bool
    ignore_label: int | None
    batch_dice: bool
    scale_weights: tuple[float, ...]
    image_channels: int
    unlabeled_batch_size: int
    patch_size: tuple[int, ...]
    spacing: tuple[float, ...]
    mirror_axes: tuple[int, ...]
    voxel_counts: Callable[[], Tensor]
    labeled_cases: tuple[str, ...] = ()

    def split_target(self, target: Tensor) -> tuple[Tensor, Tensor | None]:
        """A target of nnU-Net at one scale as labels and as the voxels (B, *spatial) that are annotated, None for all.

        Labels are class numbers (B, *spatial), or regions (B, C, *spatial).
        """
        if self.regions:
            return (target, None) if self.ignore_label is None else (target[:, :-1], ~target[:, -1].bool())
        labels = target[:, 0].long()
        if self.ignore_label is None:
            return labels, None
        return torch.where(labels == self.ignore_label, 0, labels), labels != self.ignore_label

    def one_hot(self, labels: Tensor) -> Tensor:
        """Class numbers (B, *spatial), or regions 0/1, as a mask of each channel, bool (B, C, *spatial)."""
        if self.regions:
            return labels.bool()
        classes = torch.arange(len(self.channels), device=labels.device).view(-1, *[1] * (labels.ndim - 1))
        return labels[:, None] == classes
