"""Cross-entropy with hard labels, for classes and for regions, with or without class weights."""

from __future__ import annotations

from torch import Tensor

from nnunet_ssl.distributed import mean_over_ranks
from nnunet_ssl.networks.net import Output


def cross_entropy(output: Output, labels: Tensor, weights: Tensor | None = None, valid: Tensor | None = None) -> Tensor:
    """Mean cross-entropy over voxels at full resolution, in float32.

    With weights, sum_i w(y_i) ce_i / sum_i w(y_i) over voxels i for classes, and sum_k w_k bce_k / sum_k w_k over
    channels k for regions; 0 where the weights of all labels are 0. For regions with voxels that do not count it is C
    times as much: with an ignore label nnU-Net sums over regions, where it takes the mean without.

    Args:
        output: prediction, logits (B, C, *spatial).
        labels: class numbers (B, *spatial), or regions 0/1 (B, C, *spatial).
        weights: (C,), one per class or region, without gradient.
        valid: voxels that count, (B, *spatial); all when None.
    """
    kind, logits = output.kind, output.logits
    if weights is None and valid is None:
        return kind.cross_entropy(logits, labels, "mean")
    losses = kind.cross_entropy(logits, labels)
    voxels = losses.new_ones(()).expand_as(losses) if weights is None else kind.weight_of(weights, labels)
    voxels = voxels if valid is None else voxels * kind.spread(valid)
    mean = weighted_mean(losses, voxels)
    return mean if valid is None else kind.ignore_factor * mean


def weighted_mean(losses: Tensor, weights: Tensor) -> Tensor:
    """sum w l / sum w over the voxels of all ranks, of weights without gradient; 0 where they are all 0."""
    return (weights * losses).sum() / mean_over_ranks(weights.sum()).clamp_min(1e-8)
