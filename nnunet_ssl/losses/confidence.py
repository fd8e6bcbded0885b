"""Pseudo-labels that count only where the network is confident."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from nnunet_ssl.class_weights import count_channels
from nnunet_ssl.networks.net import Output


def confidence(output: Output) -> Tensor:
    """Probability of the hard label: largest class (B, *spatial), or max(p, 1 - p) for regions (B, C, *spatial)."""
    probs = output.probs.detach()
    return torch.maximum(probs, 1 - probs) if output.regions else probs.amax(1)


def admitted_cross_entropy(logits: Tensor, labels: Tensor, admitted: Tensor, regions: bool) -> Tensor:
    """Cross-entropy summed over admitted voxels and divided by the number of all voxels, in float32.

    The fewer voxels are admitted the smaller it is; 0 with zero gradient for none.

    Args:
        logits: (B, C, *spatial).
        labels: class numbers (B, *spatial), or regions 0/1 (B, C, *spatial).
        admitted: which of them count, bool of the same shape.
        regions: whether the channels are regions.

    Source: Sohn et al., "FixMatch", NeurIPS 2020, eq. 4.
    """
    logits = logits.float()
    if regions:
        losses = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    else:
        losses = F.cross_entropy(logits, labels, reduction="none")
    return (admitted * losses).mean()


def admitted_shares(labels: Tensor, admitted: Tensor, channels: tuple[str, ...], regions: bool) -> dict[str, Tensor]:
    """The share of voxels admitted, for reports: "admitted" of all, "admitted[name]" of the pseudo-label's own.

    0 for a channel without any. Scalars on the device.

    Args:
        labels: pseudo-labels, class numbers (B, *spatial) or regions 0/1 (B, C, *spatial).
        admitted: which of them count, bool of the same shape.
        channels: names of the C channels.
        regions: which of the two.
    """
    kept = labels * admitted if regions else torch.where(admitted, labels, -1)
    found = count_channels(labels, len(channels), regions)
    shares = count_channels(kept, len(channels), regions) / found.clamp_min(1)
    per_channel = zip(channels, shares.float(), strict=False)  # counts of regions have one entry more
    return {"admitted": admitted.float().mean()} | {f"admitted[{name}]": share for name, share in per_channel}
