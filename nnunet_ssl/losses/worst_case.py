"""How far a head can contradict another one where no label stands against it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nnunet_ssl.losses.cross_entropy import weighted_mean
from nnunet_ssl.networks.net import Output

_EPS = 1e-6  # bounds the contradiction at 13.8 per voxel, as in the published code


def contradiction(worst: Output, labels: Tensor) -> Tensor:
    """Mean of -ln(1 - p + 1e-6), p the probability of the label, at most 13.8 and at least 0, in float32.

    Small where the prediction is sure of anything but the label. Computed from the cross-entropy, so that 1 - p does
    not vanish where p is close to 1.

    Args:
        worst: prediction, logits (B, C, *spatial).
        labels: class numbers (B, *spatial), or regions 0/1 (B, C, *spatial).

    Source: Chen et al., "Debiased Self-Training for Semi-Supervised Learning", NeurIPS 2022 (their code).
    """
    other = -torch.expm1(-worst.kind.cross_entropy(worst.logits, labels))  # 1 - p
    return -(other + _EPS).clamp_max(1).log().mean()


def worst_case(
    worst: Sequence[Output], main: Sequence[Output], labeled_weight: float, annotated: Tensor | None = None
) -> Tensor:
    """The loss of a head that agrees with the main one on labeled patches and contradicts it on unlabeled ones.

    labeled_weight * mean cross-entropy of the labeled + contradiction of the unlabeled, both with the main head's hard
    predictions, which get no gradient.

    Args:
        worst, main: predictions of both heads for labeled and for unlabeled patches, logits (B, C, *spatial).
        labeled_weight: of the agreement.
        annotated: voxels of the labeled patches that count, (B, *spatial); all when None.
    """
    losses = worst[0].kind.cross_entropy(worst[0].logits, main[0].hard)
    counted = losses.new_ones(()).expand_as(losses)
    counted = counted if annotated is None else counted * worst[0].kind.spread(annotated)
    return labeled_weight * weighted_mean(losses, counted) + contradiction(worst[1], main[1].hard)
