"""Prototypes of classes: mean features of their voxels."""

from __future__ import annotations

import torch
from torch import Tensor, autocast


def prototypes_of(features: Tensor, labels: Tensor, probs: Tensor) -> tuple[Tensor, Tensor]:
    """t_c = sum [y = c] k_c h / (sum [y = c] k_c + 1e-5) over the voxels of each patch, and which classes y has there.

    (B, C, features) in float32 and bool (B, C). Gradients flow into features and probs.

    Args:
        features: h, (B, features, *spatial).
        labels: y, class numbers (B, *spatial).
        probs: k, (B, C, *spatial).

    Source: Xu et al., "Ambiguity-selective consistency regularization", Medical Image Analysis 2023 (their code).
    """
    h, k = features.flatten(2), probs.flatten(2)
    classes = torch.arange(k.shape[1], device=k.device)
    of_class = labels.flatten(1)[:, None] == classes[:, None]
    with autocast(features.device.type, enabled=False):
        weights = of_class * k.float()
        return weights @ h.float().transpose(1, 2) / (weights.sum(2, keepdim=True) + 1e-5), of_class.any(2)


def nearest_prototype(features: Tensor, prototypes: Tensor, present: Tensor) -> Tensor:
    """The class whose prototype lies nearest to the features of each voxel, (B, *spatial).

    Args:
        features: h, (B, features, *spatial).
        prototypes, present: as `prototypes_of` gives them; classes that are not there are left out.
    """
    with autocast(features.device.type, enabled=False):
        # |h|^2 less the squared distance, which no class changes
        nearness = 2 * prototypes @ features.float().flatten(2) - prototypes.square().sum(2, keepdim=True)
        nearness = nearness.masked_fill(~present[..., None], -torch.inf)
    return nearness.max(1).indices.view(len(features), *features.shape[2:])
