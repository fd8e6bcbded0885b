"""Entropy of predictions, in nats."""

import math

from torch import Tensor

_EPS = 1e-6  # inside the logarithm, as in the code of Yu et al.


def entropy(probs: Tensor, regions: bool) -> Tensor:
    """Entropy per voxel: (B, 1, *spatial) over classes, or binary per channel (B, C, *spatial) for regions.

    Args:
        probs: float32 probabilities (B, C, *spatial).
        regions: channels are independent sigmoids and not one softmax.
    """
    if regions:
        return -(probs * (probs + _EPS).log() + (1 - probs) * (1 - probs + _EPS).log())
    return -(probs * (probs + _EPS).log()).sum(1, keepdim=True)


def max_entropy(channels: int, regions: bool) -> float:
    """Largest possible entropy of a voxel: ln C for C classes, ln 2 for a region."""
    return math.log(2 if regions else channels)
