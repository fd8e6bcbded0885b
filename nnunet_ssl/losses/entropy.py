"""Entropy of predictions, in nats."""

import math

from torch import Tensor
from torch.nn import functional as F

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


def entropy_of_logits(logits: Tensor, regions: bool) -> Tensor:
    """The same without epsilon and finite for all logits: exact also where a probability is 0 or 1.

    Args:
        logits: (B, C, *spatial).
        regions: channels are independent sigmoids and not one softmax.
    """
    logits = logits.float()
    if regions:
        return F.binary_cross_entropy_with_logits(logits, logits.sigmoid(), reduction="none")
    log_probs = logits.log_softmax(1)
    return -(log_probs.exp() * log_probs).sum(1, keepdim=True)


def max_entropy(channels: int, regions: bool) -> float:
    """Largest possible entropy of a voxel: ln C for C classes, ln 2 for a region."""
    return math.log(2 if regions else channels)
