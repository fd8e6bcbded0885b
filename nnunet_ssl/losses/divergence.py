"""Divergences between two predictions of the same voxels, in nats, from logits in float32."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def symmetric_kl(first: Tensor, second: Tensor, regions: bool) -> Tensor:
    """(KL(P || Q) + KL(Q || P)) / 2 per voxel: (B, *spatial) over classes, (B, C, *spatial) for regions.

    1/2 sum_c (P_c - Q_c) (log P_c - log Q_c) = 1/2 sum_c (P_c - Q_c) (z1_c - z2_c), because the normalizers cancel:
    no logarithm is taken.

    Args:
        first: z1, logits (B, C, *spatial).
        second: z2, of the same shape.
        regions: whether the channels are regions.
    """
    first, second = first.float(), second.float()
    if regions:
        return 0.5 * (first.sigmoid() - second.sigmoid()) * (first - second)
    return 0.5 * ((first.softmax(1) - second.softmax(1)) * (first - second)).sum(1)


def kl(target: Tensor, logits: Tensor, regions: bool) -> Tensor:
    """KL(P || Q) per voxel, P of the first logits and Q of the second; shapes as in `symmetric_kl`."""
    log_p, log_q = log_probs(target, regions), log_probs(logits, regions)
    divergence = (log_p.exp() * (log_p - log_q)).sum(0)
    return divergence if regions else divergence.sum(1)


def jensen_shannon(first: Tensor, second: Tensor, regions: bool) -> Tensor:
    """H((P + Q) / 2) - (H(P) + H(Q)) / 2 per voxel, in [0, ln 2]; shapes as in `symmetric_kl`.

    Source: Qiao et al., "Deep Co-Training", ECCV 2018, eq. 4 (there summed over classes, as here).
    """
    log_p, log_q = log_probs(first, regions), log_probs(second, regions)
    log_mean = torch.logaddexp(log_p, log_q) - math.log(2)
    divergence = 0.5 * (log_p.exp() * (log_p - log_mean) + log_q.exp() * (log_q - log_mean)).sum(0)
    return divergence if regions else divergence.sum(1)


def log_probs(logits: Tensor, regions: bool) -> Tensor:
    """Log-probabilities (outcomes, B, C, *spatial): one outcome for classes; inside and outside for regions."""
    logits = logits.float()
    if regions:
        return torch.stack((F.logsigmoid(logits), F.logsigmoid(-logits)))
    return logits.log_softmax(1)[None]
