"""A few feature vectors of each class, as buffers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nnunet_ssl.distributed import gathered


class FeatureBank(nn.Module):
    """Keeps at most `size` vectors of each class, the same ones on all ranks.

    Args:
        classes: C.
        size: largest number of vectors of a class.
        features: D, length of a vector.

    Attributes:
        vectors: (C, size, D); those from `count` on are without meaning.
        count: how many vectors each class has, (C,).
    """

    vectors: Tensor
    count: Tensor

    def __init__(self, classes: int, size: int, features: int):
        super().__init__()
        self.register_buffer("vectors", torch.zeros(classes, size, features))
        self.register_buffer("count", torch.zeros(classes, dtype=torch.long))

    @torch.no_grad()
    def update(self, vectors: Tensor, scores: Tensor, valid: Tensor) -> None:
        """Replaces the vectors of each class that has new ones by those with the lowest scores, over all ranks.

        What a step that overflowed gives is not taken.

        Args:
            vectors: new ones of each class, (C, N, D).
            scores: (C, N).
            valid: which of them count, (C, N).
        """
        size, valid = self.vectors.shape[1], valid & vectors.isfinite().all(2)
        best = _lowest(vectors, torch.where(valid, scores.float(), torch.inf), size)
        vectors, scores = (torch.cat(gathered(each).unbind(), 1) for each in best)  # of all ranks side by side
        vectors, scores = _lowest(vectors, scores, size)
        found = scores.isfinite().sum(1)
        vectors = torch.cat((vectors.to(self.vectors), self.vectors[:, vectors.shape[1] :]), 1)
        self.vectors.copy_(torch.where((found > 0)[:, None, None], vectors, self.vectors))
        self.count.copy_(torch.where(found > 0, found, self.count))

    def mean_direction(self) -> Tensor:
        """The mean of the vectors of each class, each divided by its length, (C, D); 0 for a class without any."""
        kept = torch.arange(self.vectors.shape[1], device=self.count.device) < self.count[:, None]
        directions = F.normalize(self.vectors, dim=2) * kept[:, :, None]
        return directions.sum(1) / self.count.clamp_min(1)[:, None]


def _lowest(vectors: Tensor, scores: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Of each class at most so many vectors with the lowest scores, and these: (C, K, D) and (C, K)."""
    scores, order = scores.sort(1)
    order = order[:, :most]
    return vectors.gather(1, order[:, :, None].expand(-1, -1, vectors.shape[2])), scores[:, :most]


def draw(masks: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """At most so many voxels of each class, drawn uniformly, and which of the drawn are of their class.

    There are always as many, so that nothing must be known on the host: a class with fewer voxels gets others as well.

    Args:
        masks: the voxels of each class, bool (C, N).
        most: K.

    Returns:
        Numbers of voxels (C, K) and whether they are of the class (C, K).
    """
    drawn = []
    for mask in masks:  # one class at a time: a random number for every voxel takes memory
        drawn.append((torch.rand(mask.shape, device=mask.device) + mask).topk(min(most, len(mask)))[1])
    index = torch.stack(drawn)
    return index, masks.gather(1, index)
