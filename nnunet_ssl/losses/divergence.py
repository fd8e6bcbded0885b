"""Divergences between two predictions of the same voxels, in nats, from logits in float32."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nnunet_ssl.networks.net import Output


def symmetric_kl(first: Output, second: Output) -> Tensor:
    """(KL(P || Q) + KL(Q || P)) / 2 per voxel: (B, *spatial) over classes, (B, C, *spatial) for regions.

    1/2 sum_c (P_c - Q_c) (log P_c - log Q_c) = 1/2 sum_c (P_c - Q_c) (z1_c - z2_c), because the normalizers cancel:
    no logarithm is taken.

    Args:
        first: P = softmax z1, at full resolution.
        second: Q = softmax z2, of the same shape.
    """
    difference = first.logits.float() - second.logits.float()
    return 0.5 * first.kind.over_classes((first.probs - second.probs) * difference)


def kl(target: Output, output: Output) -> Tensor:
    """KL(P || Q) per voxel, P of the first and Q of the second; shapes as in `symmetric_kl`."""
    log_p, log_q = (each.kind.log_probs(each.logits) for each in (target, output))
    return output.kind.over_classes((log_p.exp() * (log_p - log_q)).sum(0))


def soft_cross_entropy(target: Output, output: Output) -> Tensor:
    """-sum P log Q per voxel, P of the first and Q of the second; shapes as in `symmetric_kl`."""
    log_p, log_q = (each.kind.log_probs(each.logits) for each in (target, output))
    return output.kind.over_classes(-(log_p.exp() * log_q).sum(0))


def jensen_shannon(first: Output, second: Output) -> Tensor:
    """H((P + Q) / 2) - (H(P) + H(Q)) / 2 per voxel, in [0, ln 2]; shapes as in `symmetric_kl`.

    Source: Qiao et al., "Deep Co-Training", ECCV 2018, eq. 4 (there summed over classes, as here).
    """
    log_p, log_q = (each.kind.log_probs(each.logits) for each in (first, second))
    log_mean = torch.logaddexp(log_p, log_q) - math.log(2)
    divergence = 0.5 * (log_p.exp() * (log_p - log_mean) + log_q.exp() * (log_q - log_mean)).sum(0)
    return first.kind.over_classes(divergence)
