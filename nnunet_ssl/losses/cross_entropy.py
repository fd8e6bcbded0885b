"""Cross-entropy with hard labels, for classes and for regions, with or without class weights."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from nnunet_ssl.distributed import mean_over_ranks
from nnunet_ssl.networks.net import Output


def hard_labels(output: Output) -> Tensor:
    """Pseudo-labels without gradient: the largest class (B, *spatial), or regions above 0.5 (B, C, *spatial)."""
    logits = output.logits.detach()
    return (logits > 0).float() if output.regions else logits.argmax(1)


def cross_entropy(
    logits: Tensor, target: Tensor, regions: bool, weights: Tensor | None = None, valid: Tensor | None = None
) -> Tensor:
    """Mean cross-entropy over voxels, in float32.

    With weights, sum_i w(y_i) ce_i / sum_i w(y_i) over voxels i for classes, and sum_k w_k bce_k / sum_k w_k over
    channels k for regions; 0 where the weights of all targets are 0. For regions with voxels that do not count it is C
    times as much: with an ignore label nnU-Net sums over regions, where it takes the mean without.

    Args:
        logits: (B, C, *spatial).
        target: class numbers (B, *spatial), or regions 0/1 (B, C, *spatial).
        regions: whether the channels are regions.
        weights: (C,), one per class or region, without gradient.
        valid: voxels that count, (B, *spatial); all when None.
    """
    logits = logits.float()
    if weights is None and valid is None:
        return F.binary_cross_entropy_with_logits(logits, target) if regions else F.cross_entropy(logits, target)
    if regions:
        shape = (1, -1, *[1] * (logits.ndim - 2))
        voxels = torch.ones_like(logits) if valid is None else valid[:, None].expand_as(logits).float()
        voxels = voxels if weights is None else voxels * weights.view(shape)
        losses = F.binary_cross_entropy_with_logits(logits, target.float(), reduction="none")
    else:
        voxels = torch.ones_like(logits[:, 0]) if weights is None else weights[target]
        voxels = voxels if valid is None else voxels * valid
        losses = F.cross_entropy(logits, target, reduction="none")
    mean = (voxels * losses).sum() / mean_over_ranks(voxels.sum()).clamp_min(1e-8)
    return mean if valid is None or not regions else logits.shape[1] * mean
