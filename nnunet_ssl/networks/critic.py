"""A network that says of each voxel how much a segmentation looks like ground truth."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, autocast, nn
from torch.nn import functional as F

from nnunet_ssl.distributed import mean_over_ranks, sum_over_ranks, world_size
from nnunet_ssl.kinds import Kind
from nnunet_ssl.networks.net import Output

_FEATURES = (16, 32, 64)
_EPS = 1e-5  # of the batch norm
Counted = tuple[Tensor, Tensor | None]  # a segmentation (B, channels, *spatial), and which voxels count; all when None


class Critic(nn.Module):
    """Four 1x1 convolutions over a segmentation alone, each with batch norm and LeakyReLU 0.2: a function of a voxel.

    The norm has the statistics of the counted voxels of all ranks, in training as later, so that an ignored voxel is
    felt nowhere and ranks agree. All in float32.

    Args:
        kind: classes, which have one verdict at a voxel, or regions with one each: K verdicts.

    Source: the critic of Peiris et al., Nature Machine Intelligence 2023 (their code).
    """

    def __init__(self, kind: Kind):
        super().__init__()
        channels, verdicts = kind.channels, kind.all_outcomes // kind.outcomes
        self.layers = nn.ModuleList(_Normalized(*sizes) for sizes in pairwise((channels, *_FEATURES, verdicts)))
        self.activation = nn.LeakyReLU(0.2, inplace=True)

    def forward(self, maps: Tensor, counted: Tensor | None = None) -> Tensor:
        """Logits (B, K, *spatial), the higher the more like ground truth.

        Args:
            maps: the segmentation (B, channels, *spatial), as probabilities or as 0 and 1.
            counted: voxels that the statistics are of, (B, *spatial); all when None.
        """
        with autocast(maps.device.type, enabled=False):
            x = maps.float().flatten(2)
            weights = None if counted is None else counted.flatten(1)[:, None].float()
            for layer in self.layers:
                x = self.activation(layer(x, weights))
            return x.unflatten(2, maps.shape[2:])

    def loss(self, maps: Tensor, counted: Tensor | None = None, *, real: bool) -> Tensor:
        """Mean binary cross-entropy over the counted voxels if all of them are ground truth, or none is; 0 for none."""
        verdict = self(maps, counted)
        losses = F.softplus(-verdict if real else verdict)
        if counted is None:
            return losses.mean()
        voxels = counted[:, None].expand_as(losses).float()
        return (voxels * losses).sum() / mean_over_ranks(voxels.sum()).clamp_min(1)

    def error(self, real: Counted, fake: Counted) -> Tensor:
        """What it minimizes: the mean of both losses, of ground truth and of predictions with their counted voxels."""
        return (self.loss(*real, real=True) + self.loss(*fake, real=False)) / 2

    def deceived(self, maps: Tensor, counted: Tensor | None = None) -> Tensor:
        """The loss of maps that want to pass for ground truth; its gradient reaches the maps alone."""
        value: Tensor = _LearnedAtOnce.apply(maps, lambda maps: self.loss(maps, counted, real=True))
        return value

    @torch.no_grad()
    def believes(self, output: Output, threshold: float) -> Tensor:
        """Where its verdict of a prediction, as a probability, is above the threshold: a voxel map."""
        return output.kind.of_channels(self(output.detach().probs).sigmoid() > threshold)


class _Normalized(nn.Module):
    """A 1x1 convolution without bias, and a batch norm."""

    def __init__(self, before: int, after: int):
        super().__init__()
        self.weight = nn.Parameter(nn.Linear(before, after, bias=False).weight.detach())
        self.scale = nn.Parameter(torch.ones(after))
        self.shift = nn.Parameter(torch.zeros(after))

    def forward(self, x: Tensor, weights: Tensor | None) -> Tensor:
        """Features (B, after, voxels) of features (B, before, voxels); weights of voxels (B, 1, voxels)."""
        x = F.conv1d(x, self.weight[:, :, None])
        if weights is None and world_size() == 1:  # twice as fast
            return F.batch_norm(x, None, None, self.scale, self.shift, training=True, eps=_EPS)
        weights = torch.ones_like(x[:, :1]) if weights is None else weights
        number = sum_over_ranks(weights.sum()).clamp_min(1)
        x = x - (sum_over_ranks((weights * x).sum((0, 2))) / number)[:, None]
        variance = sum_over_ranks((weights * x.square()).sum((0, 2))) / number
        return x * (self.scale / (variance + _EPS).sqrt())[:, None] + self.shift[:, None]


class _LearnedAtOnce(torch.autograd.Function):
    """A loss whose gradient is computed with it: what the critic keeps of every voxel does not wait for the backward.

    That is several times the memory of a prediction, just when the activations of the networks are kept, too.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.enable_grad():
            maps = maps.detach().requires_grad_()
            value = loss(maps)
            ctx.save_for_backward(*torch.autograd.grad(value, maps))
        return value.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.saved_tensors[0], None
