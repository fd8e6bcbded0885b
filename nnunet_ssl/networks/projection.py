"""Small networks on the features of single voxels."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from nnunet_ssl.distributed import sum_over_ranks, world_size


class BatchNorm(nn.Module):
    """Batch normalization of vectors (N, D) over the batch of all ranks, in float32.

    Torch's own for several ranks needs a GPU. In evaluation mode it takes its moving averages.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, features: int, momentum: float = 0.1, eps: float = 1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("variance", torch.ones(features))
        self.momentum = momentum
        self.eps = eps

    def forward(self, vectors: Tensor) -> Tensor:
        vectors = vectors.float()
        if self.training:
            count = len(vectors) * world_size()
            mean = sum_over_ranks(vectors.sum(0)) / count
            centered = vectors - mean
            variance = sum_over_ranks(centered.square().sum(0)) / count
            self._follow(mean.detach(), variance.detach() * count / max(1, count - 1))
        else:
            centered, variance = vectors - self.mean, self.variance
        return torch.addcmul(self.bias, centered, self.weight * (variance + self.eps).rsqrt())

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        sound = (mean.isfinite() & variance.isfinite()).all()  # not of a step that overflowed
        for average, new in ((self.mean, mean), (self.variance, variance)):
            average.copy_(torch.where(sound, average.lerp(new, self.momentum), average))


def projection(features: int, hidden: int, out: int, nonlin: nn.Module) -> nn.Sequential:
    """Linear, batch normalization, nonlinearity, linear: (N, features) to (N, out)."""
    return nn.Sequential(nn.Linear(features, hidden), BatchNorm(hidden), nonlin, nn.Linear(hidden, out))


class VoxelHead(nn.Module):
    """Two convolutions of one voxel: features (B, F, *spatial) to logits (B, C, *spatial), as a head of the network.

    Args:
        head: the network's own of full resolution, whose number of features, channels and dimensions it takes.
        width: features in between.
    """

    def __init__(self, head: nn.Module, width: int):
        super().__init__()
        convolution: Any = type(head)  # of 2 or 3 dimensions
        features, channels = cast(Any, head).in_channels, cast(Any, head).out_channels
        self.layers = nn.Sequential(convolution(features, width, 1), nn.ReLU(), convolution(width, channels, 1))

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features)
