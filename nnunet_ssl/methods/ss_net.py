"""Smoothness and class-separation (SS-Net).

Y. Wu, Z. Wu, Q. Wu, Z. Ge, J. Cai, "Exploring Smoothness and Class-Separation for Semi-supervised Medical Image
Segmentation", MICCAI 2022.

    f, h          the plan's network, and the features of each voxel before its head
    x             all patches, [x_l; x_u];  p = softmax f(x),  y_u = argmax f(x_u)
    g, q, s_c     projection and prediction of features, and a score of class c
    K_c           at most 32 vectors g(h) of class c: of the labeled voxels that f has right, those with the lowest s_c;
                  those of earlier steps where there is none. The background has none

    d             of all directions in x of length epsilon that in which p changes most
    D(p, q)       1 - mean over classes of their Dice
    a_v           s_c(u_v) / sum s_c over the voxels of class c, u = q(g(h)); s_c sees u without gradient
    L_con(y)      1/C sum_c sum_v a_v mean_{k in K_c} (1 - cos(u_v, k)) over the voxels v of class c in y
    L = L_sup(f(x_l), y) + w(r) [D(softmax f(x + d), sg p) + beta (L_con(y) + L_con(y_u))]

sg: without gradient. The contrastive terms train f, too. Their means over voxels and vectors are taken in closed form,
of at most `max_voxels` voxels of each class, drawn at random. For regions y_u = [f > 0].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, autocast

from nnunet_ssl.losses.dice import soft_dice_distance
from nnunet_ssl.memory.class_separation import ClassSeparation
from nnunet_ssl.method import Labeled, Now, Unlabeled, check_range
from nnunet_ssl.methods.families import RampedMethod
from nnunet_ssl.networks.adversarial import virtual_adversarial
from nnunet_ssl.networks.architecture import Architecture
from nnunet_ssl.networks.net import Net
from nnunet_ssl.networks.taps import require_unet
from nnunet_ssl.task import Target

EPSILON = {2: 6 / 256, 3: 10 / math.sqrt(112 * 112 * 80)}  # per square root of a voxel


class SSNet(RampedMethod):
    """Predictions withstand adversarial noise, and features of a class lie near to those of a memory.

    Args:
        radius: factor of epsilon.
        contrast: beta, weight of the contrastive terms beside the smoothness.
        max_voxels: voxels of each class and kind of patches that the contrastive terms see.
        weight: lambda, weight of both at the end of the ramp-up.
        rampup: rho, length of the ramp-up as a fraction of training; 0 for a constant weight.

    Raises:
        ValueError: a value is out of range.
    """

    presets = {"published": {}, "published_2d": {"weight": 0.1, "rampup": 1.0}}

    def __init__(
        self,
        radius: float = 1.0,
        contrast: float = 0.1,
        max_voxels: int = 4096,
        weight: float = 1.0,
        rampup: float = 0.4,
    ):
        super().__init__(weight, rampup)
        check_range("radius", radius, 0)
        check_range("contrast", contrast, 0)
        check_range("max_voxels", max_voxels, 2)
        self.radius = radius
        self.contrast = contrast
        self.max_voxels = max_voxels

    def setup(self, net: Net, new_net: Architecture) -> None:
        net.tap("head")
        features = require_unet(net.module).decoder.seg_layers[-1].in_channels
        self.separation = ClassSeparation(features, len(self.task.channels), max_voxels=self.max_voxels)

    def losses(self, net: Net, labeled: Labeled, unlabeled: Unlabeled, now: Now) -> dict[str, Tensor]:
        x = torch.cat((labeled.image, unlabeled.weak))
        both = net(x)
        seg, free = both.split([len(labeled.image), len(unlabeled.weak)])
        y, right = self.labeled_voxels(labeled.target, seg.hard)
        y_u = free.kind.masks(free.hard)
        with autocast(x.device.type, enabled=False):
            h, h_u = (output.features["head"].float() for output in (seg, free))
            self.separation.remember(h, right)
            contrast = self.separation(h, y) + self.separation(h_u, y_u)
        weight = self.ramped_weight(now)
        return {
            "supervised": self.supervised(seg, labeled.target),
            "smoothness": weight * self.smoothness(net, x, both.probs.detach()),
            "contrast": weight * self.contrast * contrast,
        }

    def labeled_voxels(self, target: Target, predicted: Tensor) -> tuple[Tensor, Tensor]:
        """Annotated voxels of each class, and those of them that f has right, without the background's."""
        y = target.where_annotated(target.kind.masks(target.labels))
        right = y & target.kind.masks(predicted)
        right[:, : target.kind.background] = False
        return y, right

    def smoothness(self, net: Net, x: Tensor, p: Tensor) -> Tensor:
        """D between the predictions for x + d and for x, p (B, C, *spatial) without gradient."""
        epsilon = self.radius * EPSILON[x.ndim - 2] * math.sqrt(x[0].numel())
        d = epsilon * virtual_adversarial(net.module, x, net.kind, lambda f: soft_dice_distance(f.probs, p))
        return soft_dice_distance(net(x + d).probs, p)
