"""Distances between two predictions of the same voxels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import torch
from torch import Tensor
from torch.nn import functional as F

from nnunet_ssl.distributed import mean_over_ranks
from nnunet_ssl.losses.sharpening import sharpened_per_channel
from nnunet_ssl.networks.net import Output


def masked_mse(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared difference over the voxels that a mask admits; 0 with zero gradient for an empty mask.

    sum(mask (student - teacher)^2) / (sum(mask) + 1e-16), sums over samples, channels and voxels.

    Args:
        student: probabilities (B, C, *spatial), float32.
        teacher: probabilities (B, C, *spatial), float32, without gradient.
        mask: (B, 1, *spatial) for classes, which counts each admitted voxel C times, or (B, C, *spatial) for regions.

    Source: Yu et al., "Uncertainty-aware Self-ensembling Model", MICCAI 2019, eq. 4. Their code divides by 2 whatever
    the number of classes; we divide by C, which is the same for their two classes.
    """
    mask = mask.expand_as(student).float()
    return (mask * (student - teacher).square()).sum() / (mean_over_ranks(mask.sum()) + 1e-16)


def mutual_consistency(outputs: Sequence[Output], temperature: float, detach_targets: bool = False) -> Tensor:
    """Sum over ordered pairs i != j of mean (p_i - s(p_j))^2, s as in `sharpened_per_channel`, at full resolution.

    The gradient also runs through s(p_j), unless `detach_targets`.

    Source: Wu et al., "Semi-supervised Left Atrium Segmentation with Mutual Consistency Training", MICCAI 2021.
    """
    sharp = [sharpened_per_channel(output, temperature) for output in outputs]
    if detach_targets:
        sharp = [target.detach() for target in sharp]
    pairs = permutations(range(len(outputs)), 2)
    return torch.stack([F.mse_loss(outputs[i].probs, sharp[j]) for i, j in pairs]).sum()
