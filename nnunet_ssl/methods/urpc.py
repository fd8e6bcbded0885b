"""Uncertainty Rectified Pyramid Consistency (URPC).

X. Luo, W. Liao, J. Chen, T. Song, Y. Chen, S. Zhang, N. Chen, G. Wang, S. Zhang, "Efficient Semi-supervised Gross
Target Volume of Nasopharyngeal Carcinoma Segmentation via Uncertainty Rectified Pyramid Consistency", MICCAI 2021.

    z_1..z_S      logits of f(x_u) at the scales of the decoder, full resolution first, all brought to full size
    p_s           softmax z_s;  m = (p_1 + ... + p_S) / S
    D_s           sum_c m_c (log m_c - log p_s,c) = KL(m || p_s) per voxel
    w_s           exp(-D_s): less weight where a scale disagrees with the mean

    l_s = mean w_s (p_s - m)^2 / mean w_s + mean D_s              means over patches, voxels and, of the square, classes
    L   = L_sup(f(x_l), y) + w(r) (l_1 + ... + l_S) / S

Nothing is detached, neither m nor w_s. The scales are nnU-Net's outputs of deep supervision that have a weight in its
loss, at most four; L_sup is nnU-Net's own. In training the heads below full resolution read perturbed features (noise,
then F-Drop, then dropout) of unlabeled patches only. For regions m, D and w are binary per channel, with means over
channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from nnunet_ssl.distributed import sum_over_ranks, world_size
from nnunet_ssl.kinds import Kind
from nnunet_ssl.method import Labeled, Now, Unlabeled
from nnunet_ssl.methods.families import RampedMethod
from nnunet_ssl.networks.architecture import Architecture
from nnunet_ssl.networks.heads import PerturbedHeads
from nnunet_ssl.networks.net import Net
from nnunet_ssl.networks.perturbations import element_dropout, feature_drop, feature_noise

MAX_SCALES = 4
UNUSED = 1e-5  # nnU-Net weighs the scale that it leaves out by 0, or by less than this where DDP needs its gradient


class URPC(RampedMethod):
    """Consistency of the scales of deep supervision with their mean, weighted by their agreement.

    Args:
        perturb: perturb the features that the heads below full resolution read, of unlabeled patches.
        nearest_in_2d: in 2D, bring logits to full size by the nearest voxel and not linearly.
        ramped: see `RampedMethod`.

    Raises:
        ValueError: a value is out of range.
    """

    presets = {"published": {"weight": 0.2, "nearest_in_2d": True}}

    def __init__(self, perturb: bool = True, nearest_in_2d: bool = False, **ramped: Any):
        super().__init__(**ramped)
        self.perturb = perturb
        self.nearest_in_2d = nearest_in_2d

    def setup(self, net: Net, new_net: Architecture) -> None:
        self.scales = min(MAX_SCALES, sum(weight > UNUSED for weight in self.task.scale_weights))
        if self.scales < 2:
            raise NotImplementedError(
                "URPC compares scales of deep supervision and needs two that nnU-Net's loss uses; this network has "
                f"{self.scales}. Take a U-Net of nnU-Net's plans with four stages or more, with deep supervision."
            )
        if self.perturb:
            self.heads = PerturbedHeads(net.module, (feature_noise, feature_drop, half_dropped)[: self.scales - 1])

    def losses(self, net: Net, labeled: Labeled, unlabeled: Unlabeled, now: Now) -> dict[str, Tensor]:
        if self.perturb:
            self.heads.first = len(labeled.image)
        seg, output = net(labeled.image, unlabeled.weak)
        nearest = self.nearest_in_2d and output.logits.ndim == 4
        consistency, divergence = pyramid_consistency(output.pyramid[: self.scales], output.kind, nearest)
        self.report["divergence"] = divergence
        return {
            "supervised": self.supervised(seg, labeled.target),
            "consistency": self.ramped_weight(now) * consistency,
        }


def pyramid_consistency(pyramid: Sequence[Tensor], kind: Kind, nearest: bool = False) -> tuple[Tensor, Tensor]:
    """Mean of l_s over the scales, and mean of D_s without gradient; both of all ranks.

    Args:
        pyramid: logits (B, C, *spatial) of each scale, full resolution first.
        kind: classes or regions.
        nearest: whether lower scales come to full size by the nearest voxel and not linearly.
    """
    size = pyramid[0].shape[2:]
    scales = [kind.log_probs(full_size(logits, size, nearest)) for logits in pyramid]
    log_mean = reduce(torch.logaddexp, scales) - math.log(len(scales))
    # the maps of one scale at a time: the backward pass makes them again
    keep: Any = {"use_reentrant": False, "preserve_rng_state": False}
    parts = [checkpoint(scale_means, log_mean, scale, kind, **keep) for scale in scales]
    rectified, weight, divergence = (sum_over_ranks(torch.stack(parts)) / world_size()).unbind(1)
    return (rectified / (weight + 1e-8) + divergence).mean(), divergence.detach().mean()


def scale_means(log_mean: Tensor, log_p: Tensor, kind: Kind) -> Tensor:
    """Means of w (p - m)^2, of w = exp(-D) and of D, from log-probabilities (outcomes, B, C, *spatial)."""
    mean = log_mean.exp()
    divergence = kind.as_channels(kind.over_classes((mean * (log_mean - log_p)).sum(0)))
    weight = (-divergence).exp()
    rectified = weight * (log_p[0].exp() - mean[0]).square()
    return torch.stack((rectified.mean(), weight.mean(), divergence.mean()))


def full_size(logits: Tensor, size: Sequence[int], nearest: bool = False) -> Tensor:
    """Logits in float32, interpolated linearly or by the nearest voxel to `size`, which may be anisotropic."""
    if nearest:
        return F.interpolate(logits.float(), size=tuple(size), mode="nearest-exact")
    mode = "bilinear" if len(size) == 2 else "trilinear"
    return F.interpolate(logits.float(), size=tuple(size), mode=mode, align_corners=False)


def half_dropped(features: Tensor) -> Tensor:
    """Dropout of elements with the published probability."""
    return element_dropout(features, 0.5)
