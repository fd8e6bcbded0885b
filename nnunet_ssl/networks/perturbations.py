"""Random perturbations of feature maps (B, C, *spatial).

Y. Ouali, C. Hudelot, M. Tami, "Semi-Supervised Semantic Segmentation with Cross-Consistency Training", CVPR 2020.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from nnunet_ssl.kinds import per_sample


def feature_noise(features: Tensor, amount: float = 0.3) -> Tensor:
    """F-Noise: x (1 + n), n ~ U(-amount, amount), one map of noise for all samples of the batch."""
    noise = torch.empty_like(features[:1]).uniform_(-amount, amount)
    return features * (1 + noise)


def element_dropout(features: Tensor, p: float = 0.3) -> Tensor:
    """Sets elements to 0 with probability p and scales the others by 1 / (1 - p)."""
    return F.dropout(features, p, training=True)


def feature_drop(features: Tensor, low: float = 0.7, high: float = 0.9) -> Tensor:
    """F-Drop: sets the most active voxels to 0, those whose mean over channels is at least u times the largest.

    u ~ U(low, high) is drawn for each sample; the original draws one for the batch.
    """
    u = torch.empty(len(features), device=features.device).uniform_(low, high)
    return features * below(features, u)


def below(features: Tensor, u: Tensor) -> Tensor:
    """Voxels (B, 1, *spatial) whose mean over channels is below u (B,) times the sample's largest."""
    attention = features.mean(1, keepdim=True)
    largest = attention.flatten(1).amax(1)
    return attention < per_sample(u * largest, features)
