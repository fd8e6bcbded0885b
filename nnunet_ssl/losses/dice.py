"""Soft Dice with class weights, and with squares."""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_ssl.distributed import mean_over_ranks, sum_over_ranks


def weighted_dice(
    probs: Tensor,
    target: Tensor,
    weights: Tensor,
    batch_dice: bool,
    valid: Tensor | None = None,
    smooth: float = 1e-5,
    samples: Tensor | None = None,
) -> Tensor:
    """Negative mean over channels of w_k dice_k, dice_k = (2 TP + smooth) / (2 TP + FP + FN + smooth).

    Args:
        probs: float32 probabilities of the channels that count, (B, K, *spatial); leave the background out.
        target: 0/1 of the same shape.
        weights: (K,), without gradient.
        batch_dice: sums run over the batch (of all ranks) and not per sample, as nnU-Net's plans say.
        valid: voxels that count, (B, *spatial); all when None.
        smooth: nnU-Net's 1e-5 by default.
        samples: those whose Dice counts where it is taken per sample, (B,); all when None, 0 for none.
    """
    axes = tuple(range(2, probs.ndim))
    target = target.bool()
    if valid is not None:
        probs, target = probs * valid[:, None], target & valid[:, None]
    overlap, size = (probs * target).sum(axes), probs.sum(axes) + target.sum(axes)
    if batch_dice:
        overlap, size = sum_over_ranks(torch.stack([overlap.sum(0), size.sum(0)]))
    dice = weights * (2 * overlap + smooth) / (size + smooth).clamp_min(1e-8)
    if samples is None or batch_dice:
        return -dice.mean()
    return -(samples * dice.mean(1)).sum() / mean_over_ranks(samples.float().sum()).clamp_min(1e-8)


def soft_dice_distance(p: Tensor, q: Tensor, smooth: float = 1e-5) -> Tensor:
    """1 - mean over channels of (2 sum p q + smooth) / (sum p + sum q + smooth), sums over the batch of all ranks.

    Of probabilities (B, C, *spatial) in float32; not 0 for equal ones that are unsure.
    """
    axes = (0, *range(2, p.ndim))
    overlap, size = sum_over_ranks(torch.stack([(p * q).sum(axes), (p + q).sum(axes)]))
    return 1 - ((2 * overlap + smooth) / (size + smooth)).mean()


def squared_dice(probs: Tensor, target: Tensor, smooth: float = 1e-5, weights: Tensor | None = None) -> Tensor:
    """1 - mean over channels of (2 sum p y + smooth) / (sum p^2 + sum y^2 + smooth), sums over the batch of all ranks.

    Args:
        probs: float32 probabilities, (B, C, *spatial); all channels count, the background too.
        target: 0/1 of the same shape, without gradient.
        smooth: keeps a channel that is in neither from dividing by 0: its loss is 0.
        weights: of the voxels in each sum, (B, 1, *spatial); 1 when None.

    Source: Milletari et al., "V-Net", 3DV 2016, in the form of the medical semi-supervised code.
    """
    axes = (0, *range(2, probs.ndim))
    overlap, size = probs * target, probs.square() + target
    if weights is not None:
        overlap, size = weights * overlap, weights * size
    overlap, size = sum_over_ranks(torch.stack([overlap.sum(axes), size.sum(axes)]))
    return 1 - ((2 * overlap + smooth) / (size + smooth)).mean()
