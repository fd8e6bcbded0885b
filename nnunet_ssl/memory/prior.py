"""The mean prediction for unlabeled patches, followed through training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nnunet_ssl.distributed import mean_over_ranks
from nnunet_ssl.kinds import Kind


class Prior(nn.Module):
    """q <- m q + (1 - m) mean p, the same on all ranks; uniform at the start.

    What a step that overflowed gives is not taken.

    Args:
        kind: classes or regions, of which there are C.
        momentum: m.
        positions: shape (*spatial) of patches to have a q for each position of, which is a mean over patches alone; of
            ones for one q everywhere.

    Attributes:
        q: (C, *positions).
    """

    q: Tensor

    def __init__(self, kind: Kind, momentum: float, positions: tuple[int, ...]):
        super().__init__()
        self.kind = kind
        self.momentum = momentum
        self.register_buffer("q", torch.full((kind.channels, *positions), 1 / kind.outcomes))

    @torch.no_grad()
    def update(self, probs: Tensor) -> None:
        """Takes probabilities of this rank's unlabeled patches, (B, C, *spatial) in float32."""
        mean = probs.mean(0)
        if mean.shape != self.q.shape:
            mean = mean.flatten(1).mean(1).view_as(self.q)
        new = self.momentum * self.q + (1 - self.momentum) * mean_over_ranks(mean)
        self.q.copy_(torch.where(new.isfinite().all(), new, self.q))

    def logits(self) -> Tensor:
        """ln q, of regions ln q / (1 - q), without infinities, (C, *positions)."""
        return self.kind.logits_of(self.q)
