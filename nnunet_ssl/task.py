"""What a method may know of the data set and of nnU-Net's loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from nnunet_ssl.kinds import Kind, nearest


@dataclass(frozen=True)
class Target:
    """What labeled patches should become, or patches with pseudo-labels.

    Attributes:
        scales: as nnU-Net makes them, full resolution first, of which there is one without deep supervision: class
            numbers (B, 1, *spatial) or regions (B, C, *spatial), float.
        kind: classes or regions.
        ignore_label: of unannotated voxels; with regions their mask is one more channel. None where there are none.
        missing: channels that were not annotated in the case of a patch: bool (B, C, 1, ...), or (B, C, *spatial) at
            full resolution where patches are mixed. None where all were. `Method.supervised` knows what to do there.
    """

    scales: tuple[Tensor, ...]
    kind: Kind
    ignore_label: int | None = None
    missing: Tensor | None = None

    @property
    def full(self) -> Tensor:
        """nnU-Net's target at full resolution, float."""
        return self.scales[0].float()

    @property
    def labels(self) -> Tensor:
        """Class numbers (B, *spatial), 0 where not annotated, or regions (B, C, *spatial), at full resolution."""
        return self._read[0]

    @property
    def annotated(self) -> Tensor | None:
        """The voxels whose label is known, bool (B, *spatial) at full resolution; None for all.

        What is labeled background in a case that lacks classes is not: it may be any of them.
        """
        return self._read[1]

    def where_annotated(self, masks: Tensor) -> Tensor:
        """Of bool masks (B, K, *spatial) at full resolution, the voxels whose label is known."""
        return masks if self.annotated is None else masks & self.annotated[:, None]

    @cached_property
    def _read(self) -> tuple[Tensor, Tensor | None]:
        labels, annotated = self.kind.read(self.scales[0], self.ignore_label)
        if self.missing is None:
            return labels, annotated
        certain = self.kind.certain(labels, self.missing)
        return labels, certain if annotated is None else annotated & certain

    def by_scale(self) -> Iterator[Target]:
        """A target of each scale alone."""
        for scale in self.scales:
            missing = None if self.missing is None else at_scale(self.missing, scale.shape[2:])
            yield replace(self, scales=(scale,), missing=missing)

    def resized(self, full: Tensor, missing: Tensor | None = None) -> Target:
        """Another target of this form, given at full resolution, at all scales: by the nearest voxel, as nnU-Net's.

        Args:
            full: as `full`.
            missing: what was not annotated there; by default nothing.
        """
        scales = (full, *(nearest(full, scale.shape[2:]) for scale in self.scales[1:]))
        return replace(self, scales=scales, missing=missing)

    def form(self, labels: Tensor) -> Tensor:
        """Labels of all voxels, as `kind.hard` gives them, in the form of `full`."""
        channels = self.kind.as_channels(labels).float()
        further = self.scales[0].shape[1] - channels.shape[1]  # none or, with regions, the mask of ignored voxels
        return torch.cat((channels, channels.new_zeros(len(channels), further, *channels.shape[2:])), 1)


def at_scale(missing: Tensor, size: torch.Size) -> Tensor:
    """`Target.missing` for a scale of this size, by the nearest voxel."""
    return missing if missing[0, 0].numel() == 1 else nearest(missing, size)


@dataclass(frozen=True)
class Task:
    """What a method may know of the data set and of nnU-Net's loss.

    Attributes:
        channels: names of the output channels: classes, the background first, or regions.
        kind: whether the channels are classes or regions, with all that differs between these.
        ignore_label: the label that targets use for unannotated voxels; with regions, targets have one more channel.
        batch_dice: whether nnU-Net's Dice sums over the batch.
        scale_weights: weights of nnU-Net's loss over the scales of deep supervision.
        image_channels: number of channels of the images.
        labeled_batch_size: labeled patches per step (of this process).
        unlabeled_batch_size: unlabeled patches per step (of this process).
        patch_size: voxels of a training patch along each axis.
        spacing: mm between voxels along each axis.
        mirror_axes: spatial axes, from 0, along which nnU-Net mirrors.
        labeled_cases: ids of the labeled training cases.
        labeled_folder: where these lie preprocessed.
        adopted_share: of the cases that `nnunet_ssl suggest` has suggested last, the share that is labeled by now.
        voxel_counts: counts the voxels of each channel over the labeled training cases, (C,) float64; with regions
            one more entry, for voxels in none of them.
    """

    channels: tuple[str, ...]
    kind: Kind
    ignore_label: int | None
    batch_dice: bool
    scale_weights: tuple[float, ...]
    image_channels: int
    labeled_batch_size: int
    unlabeled_batch_size: int
    patch_size: tuple[int, ...]
    spacing: tuple[float, ...]
    mirror_axes: tuple[int, ...]
    voxel_counts: Callable[[], Tensor]
    labeled_cases: tuple[str, ...] = ()
    labeled_folder: str = ""
    adopted_share: float = 0.0

    def target(self, nnunets: Tensor | Sequence[Tensor], missing: Tensor | None = None) -> Target:
        """A target as nnU-Net's loader makes it, a list over scales with deep supervision.

        Args:
            missing: channels that were not annotated in the case of a patch, bool (B, C, 1, ...); None for none.
        """
        scales = (nnunets,) if isinstance(nnunets, Tensor) else tuple(nnunets)
        return Target(scales, self.kind, self.ignore_label, missing)
