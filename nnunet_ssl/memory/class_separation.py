"""Features of each class near to those of a bank, and of no other."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nnunet_ssl.distributed import sum_over_ranks
from nnunet_ssl.memory.feature_bank import FeatureBank, draw
from nnunet_ssl.networks.projection import projection


class ClassSeparation(nn.Module):
    """Projection g, prediction q, a score s_c of each class, and the bank of g(h) of voxels known well.

    I. Alonso, A. Sabater, D. Ferstl, L. Montesano, A. C. Murillo, "Semi-Supervised Semantic Segmentation with
    Pixel-Level Contrastive Learning from a Class-wise Memory Bank", ICCV 2021.

    Args:
        features: F, of a voxel.
        channels: C, classes or regions.
        bank_size: largest number of vectors of a class.
        max_voxels: how many voxels of each class a call sees, drawn at random.
    """

    def __init__(self, features: int, channels: int, bank_size: int = 32, max_voxels: int = 4096):
        super().__init__()
        size = 2 * features
        self.g = projection(features, size, size, nn.ReLU())
        self.q = projection(size, size, size, nn.ReLU())
        self.s = nn.ModuleList(projection(size, size, 1, nn.LeakyReLU(0.2)) for _ in range(channels))
        self.bank = FeatureBank(channels, bank_size, size)
        self.max_voxels = max_voxels

    @torch.no_grad()
    def remember(self, h: Tensor, masks: Tensor) -> None:
        """The bank gets g(h), those with the lowest scores, of the voxels in each mask.

        Args:
            h: features (B, F, *spatial) in float32.
            masks: voxels of each class, bool (B, C, *spatial).
        """
        index, valid = draw(_by_channel(masks), self.max_voxels)
        self.g.eval()
        vectors = self.g(_by_channel(h).T[index.flatten()]).unflatten(0, index.shape)
        self.g.train()
        self.bank.update(vectors, self.scores(vectors), valid)

    def forward(self, h: Tensor, masks: Tensor) -> Tensor:
        """1/C sum_c sum_v a_v mean_{k in K_c} (1 - cos(u_v, k)), u = q(g(h)), a_v = s_c(u_v) / sum s_c.

        Means over voxels and bank in closed form; 0 for a class with fewer than two of either; `h`, `masks` as above.
        """
        index, valid = draw(_by_channel(masks), self.max_voxels)
        u = self.q(self.g(_by_channel(h).T[index.flatten()])).unflatten(0, index.shape)
        scores = self.scores(u.detach()) * valid
        direction = (scores[:, :, None] * F.normalize(u, dim=2)).sum(1)
        direction, total, count = map(sum_over_ranks, (direction, scores.sum(1), valid.sum(1).float()))
        cosine = (direction * self.bank.mean_direction()).sum(1) / total.clamp_min(1e-8)
        return ((1 - cosine) * ((count > 1) & (self.bank.count > 1))).mean()

    def scores(self, vectors: Tensor) -> Tensor:
        """s_c of vectors of each class (C, K, D), in 0 to 1, (C, K)."""
        return torch.stack([s(each)[:, 0] for s, each in zip(self.s, vectors, strict=True)]).sigmoid()


def _by_channel(volume: Tensor) -> Tensor:
    """(B, C, *spatial) as (C, N)."""
    return volume.transpose(0, 1).flatten(1)
