"""Boxes to paste between patches."""

import torch
from torch import Tensor


def random_boxes(image: Tensor, lengths: Tensor) -> Tensor:
    """A box in each patch of (B, channels, *spatial), anywhere within it, as a mask (B, 1, *spatial).

    Args:
        lengths: (B, axes), whole voxels, on the CPU; 0 for no box.
    """
    patch = image.shape[2:]
    mask = torch.ones_like(image[:, :1], dtype=torch.bool)
    for axis, size in enumerate(patch):
        length = lengths[:, axis]
        start = ((size + 1 - length) * torch.rand(len(image))).floor()
        place = torch.arange(size, device=image.device)
        first, end = (edge.to(image.device, non_blocking=True)[:, None] for edge in (start, start + length))
        shape = [len(image), 1, *(size if other == axis else 1 for other in range(len(patch)))]
        mask &= ((place >= first) & (place < end)).view(shape)
    return mask


def cut(batch: Tensor, boxes: Tensor) -> Tensor:
    """(B, C, *spatial) with each box (B, 1, *spatial) taken from the entry before, the first's from the last."""
    return torch.where(boxes, batch.roll(1, 0), batch)
