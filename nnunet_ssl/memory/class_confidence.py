"""How sure a network is of what is true, followed through training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nnunet_ssl.distributed import sum_over_ranks
from nnunet_ssl.kinds import Kind
from nnunet_ssl.task import Target


class ClassConfidence(nn.Module):
    """Mean probability of each class where it is true, over labeled voxels of all ranks.

        S_k, M_k  sum of p_k over the labeled voxels of class k, and their number, since the last `refresh`
        c_k       S_k / M_k at the first `refresh` with voxels of k, then m c_k + (1 - m) S_k / M_k;
                  as it was without voxels of k, and 0 before there were any

    Of regions inside and outside are classes each, all of them together (E,) = (2 C,). What a step that overflowed
    gives is not taken.

    Args:
        kind: classes or regions.
        momentum: m.

    Attributes:
        confidence: c, (E,).
        seen: what has a confidence, (E,).
        sums, counts: S and M, (E,).
    """

    confidence: Tensor
    seen: Tensor
    sums: Tensor
    counts: Tensor

    def __init__(self, kind: Kind, momentum: float = 0.999):
        super().__init__()
        self.momentum = momentum
        for name in ("confidence", "sums", "counts"):
            self.register_buffer(name, torch.zeros(kind.all_outcomes))
        self.register_buffer("seen", torch.zeros(kind.all_outcomes, dtype=torch.bool))

    @torch.no_grad()
    def add(self, probs: Tensor, target: Target) -> None:
        """Takes probabilities of this rank's labeled patches, (B, C, *spatial) in float32, and their target."""
        kind, axes = target.kind, (0, *range(2, probs.ndim))
        true = kind.exhaustive(kind.masks(target.labels))
        if target.annotated is not None:
            true = true & target.annotated[:, None]
        sums, counts = sum_over_ranks(torch.stack([(kind.exhaustive(probs) * true).sum(axes), true.sum(axes)]))
        sound = sums.isfinite()
        self.sums += torch.where(sound, sums, 0)
        self.counts += torch.where(sound, counts, 0)

    @torch.no_grad()
    def refresh(self) -> None:
        """c from S and M, which begin anew."""
        new, present = self.sums / self.counts.clamp_min(1), self.counts > 0
        moved = torch.where(self.seen, self.momentum * self.confidence + (1 - self.momentum) * new, new)
        self.confidence.copy_(torch.where(present, moved, self.confidence))
        self.seen |= present
        self.sums.zero_()
        self.counts.zero_()

    def rates(self, gamma: float) -> Tensor:
        """((1 - c_k) / max_j (1 - c_j))^gamma, (E,): 1 for what the network is least sure of."""
        doubt = 1 - self.confidence
        return (doubt / (doubt.max() + 1e-12)) ** gamma
