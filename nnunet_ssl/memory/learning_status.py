"""How much of the unlabeled patches a network is sure of, epoch by epoch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nnunet_ssl.distributed import sum_over_ranks


class LearningStatus(nn.Module):
    """Share of the unlabeled voxels whose confidence exceeds a bound, of the last two complete epochs.

    All ranks have the same. Voxels that overflowed are not counted, and an epoch without any other one is left out.

    Args:
        bound: that the confidence of a sure voxel exceeds.

    Attributes:
        shares: of the epoch before the last one and of the last, (2,); 0 for one that there was not yet.
        counted: sure voxels of the epoch at hand and all of its voxels, (2,) float64, which counts exactly.
        epoch: number of the epoch at hand, (); -1 before training.
    """

    shares: Tensor
    counted: Tensor
    epoch: Tensor

    def __init__(self, bound: float):
        super().__init__()
        self.bound = bound
        self.register_buffer("shares", torch.zeros(2))
        self.register_buffer("counted", torch.zeros(2, dtype=torch.float64))
        self.register_buffer("epoch", torch.tensor(-1))

    @torch.no_grad()
    def record(self, confidence: Tensor, epoch: int) -> None:
        """Takes the confidences of this rank's unlabeled voxels, of any shape, in an epoch; the first ends the last.

        It compares on the device, which is not waited for.
        """
        ended = self.epoch != epoch
        sure, voxels = self.counted
        shares = torch.stack([self.shares[1], (sure / voxels.clamp_min(1)).float()])
        self.shares.copy_(torch.where(ended & (voxels > 0), shares, self.shares))
        counts = torch.stack([(confidence > self.bound).sum(), confidence.isfinite().sum()]).double()
        self.counted.copy_(torch.where(ended, 0, self.counted) + sum_over_ranks(counts))
        self.epoch.fill_(epoch)

    def ratio(self) -> Tensor:
        """Share of the last complete epoch over that of the one before, at most 1, (); 1 where the latter is 0."""
        before, last = self.shares
        return torch.where(before > 0, (last / before).clamp_max(1), 1)
