"""Labeled patches with boxes of one another in them: image, labels, what was annotated and maps alike."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nnunet_ssl.augmentation.boxes import cut, random_boxes
from nnunet_ssl.kinds import nearest
from nnunet_ssl.method import Labeled, check_range
from nnunet_ssl.task import Target


@dataclass(frozen=True)
class BoxMixing:
    """Pastes a box of the patch before, the first's from the last, into some of the labeled patches of a batch.

    Attributes:
        probability: with which a patch gets a box.
        smallest, largest: of each side of a box, as shares of the patch's side; each side has a uniform draw.

    Raises:
        ValueError: a value is out of range.
    """

    probability: float = 0.5
    smallest: float = 0.25
    largest: float = 0.75

    def __post_init__(self) -> None:
        check_range("probability", self.probability, 0, 1)
        check_range("smallest", self.smallest, 0, 1)
        check_range("largest", self.largest, self.smallest, 1)

    def require_pairs(self, batch_size: int) -> None:
        """Raises NotImplementedError for a batch of a single patch, into which nothing could be pasted but itself."""
        if self.probability > 0 and batch_size < 2:
            raise NotImplementedError(
                "Boxes are pasted between the labeled patches of a step, and there is one on a GPU: raise batch_size "
                "in the plans, or take fewer GPUs."
            )

    def __call__(self, labeled: Labeled) -> Labeled:
        """As many patches; each belongs to the case that surrounds its box."""
        patch = torch.tensor(labeled.image.shape[2:])
        count = len(labeled.image)
        sides = self.smallest + (self.largest - self.smallest) * torch.rand(count, len(patch))
        lengths = (sides * patch).round() * (torch.rand(count, 1) < self.probability)
        return pasted(labeled, random_boxes(labeled.image, lengths))


def pasted(labeled: Labeled, boxes: Tensor) -> Labeled:
    """Patches with their box (B, 1, *spatial) from the patch before; at lower scales as nnU-Net would sample them."""
    target = labeled.target
    scales = tuple(cut(scale, nearest(boxes, scale.shape[2:])) for scale in target.scales)
    missing = None if target.missing is None else cut(target.missing, boxes)
    return replace(
        labeled,
        image=cut(labeled.image, boxes),
        target=replace(target, scales=scales, missing=missing),
        maps=None if labeled.maps is None else cut(labeled.maps, boxes),
    )


def joined(first: Labeled, second: Labeled) -> Labeled:
    """The patches of both, of equal shapes, in one batch."""
    return Labeled(
        torch.cat((first.image, second.image)),
        _joined_targets(first.target, second.target),
        first.cases + second.cases,
        None if first.maps is None else torch.cat((first.maps, second.maps)),
    )


def _joined_targets(first: Target, second: Target) -> Target:
    both = zip(first.scales, second.scales, strict=True)
    scales = tuple(map(torch.cat, both))
    missing = None
    if first.missing is not None and second.missing is not None:  # of one mixed batch and what it was made of
        spatial = torch.broadcast_shapes(first.missing.shape[2:], second.missing.shape[2:])
        missing = torch.cat([each.missing.expand(*each.missing.shape[:2], *spatial) for each in (first, second)])
    return replace(first, scales=scales, missing=missing)
