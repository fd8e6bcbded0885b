"""Mutual Consistency Network (MC-Net, MC-Net+).

Y. Wu, M. Xu, Z. Ge, J. Cai, L. Zhang, "Semi-supervised Left Atrium Segmentation with Mutual Consistency Training",
MICCAI 2021. Y. Wu, Z. Ge, D. Zhang, M. Xu, L. Zhang, Y. Xia, J. Cai, "Mutual consistency learning for semi-supervised
medical image segmentation", Medical Image Analysis 81, 2022 (MC-Net+).

    e, d_1        encoder and decoder of the plan's network, which predicts
    d_2..d_K      further decoders that go up in another way: by trilinear interpolation; MC-Net+ by nearest voxels, too
    x             all patches, [x_l; x_u];  p_i = softmax d_i(e(x))
    s(p)          p^(1/T) / (p^(1/T) + (1 - p)^(1/T)) in each channel

    L = lambda_s sum_i L_sup(d_i(e(x_l)), y) + w(r) sum_{i != j} mean (p_i - s(p_j))^2

The gradient also runs through s(p_j); `detach_targets` stops it. L_sup is nnU-Net's over all scales of every decoder,
the consistency is of full resolution. The convolution of a further decoder has one voxel and comes before the
interpolation. For regions softmax is sigmoid.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nnunet_ssl.losses.consistency import mutual_consistency
from nnunet_ssl.method import Labeled, Now, Unlabeled, check_range
from nnunet_ssl.methods.families import RampedMethod
from nnunet_ssl.networks.architecture import Architecture
from nnunet_ssl.networks.decoders import further_decoder
from nnunet_ssl.networks.net import Net, Output, run


class MCNet(RampedMethod):
    """Decoders that differ in how they go up agree with each other's sharpened predictions.

    Args:
        temperature: T, below 1.
        supervised_weight: lambda_s, of each decoder's supervised loss.
        detach_targets: sharpened predictions get no gradient.
        weight: lambda, weight of the consistency at the end of the ramp-up.
        rampup: rho, length of the ramp-up as a fraction of training; 0 for a constant weight.

    Raises:
        ValueError: a value is out of range.
    """

    ways_up: tuple[str, ...] = ("linear",)  # of the further decoders
    presets = {"published": {}, "published_2d": {"supervised_weight": 1.0, "weight": 0.1, "rampup": 1.0}}

    def __init__(
        self,
        temperature: float = 0.1,
        supervised_weight: float = 0.5,
        detach_targets: bool = False,
        weight: float = 1.0,
        rampup: float = 0.4,
    ):
        super().__init__(weight, rampup)
        check_range("temperature", temperature, 1e-3, 1)
        check_range("supervised_weight", supervised_weight, 0)
        self.temperature = temperature
        self.supervised_weight = supervised_weight
        self.detach_targets = detach_targets

    def setup(self, net: Net, new_net: Architecture) -> None:
        self.decoders = nn.ModuleList(further_decoder(new_net(), way, scales=True) for way in self.ways_up)
        self.further = [net.compiled(decoder) for decoder in self.decoders]
        net.tap("skips")

    def losses(self, net: Net, labeled: Labeled, unlabeled: Unlabeled, now: Now) -> dict[str, Tensor]:
        sizes = [len(labeled.image), len(unlabeled.weak)]
        first = net(torch.cat((labeled.image, unlabeled.weak)))
        outputs = [first, *(run(decoder, first.features["skips"], first.kind) for decoder in self.further)]
        supervised = [self.supervised(output.split(sizes)[0], labeled.target) for output in outputs]
        return {
            "supervised": self.supervised_weight * torch.stack(supervised).sum(),
            "consistency": self.ramped_weight(now) * self.consistency(outputs),
        }

    def consistency(self, outputs: list[Output]) -> Tensor:
        """Sum over ordered pairs of decoders of mean (p_i - s(p_j))^2."""
        return mutual_consistency(outputs, self.temperature, self.detach_targets)


class MCNetPlus(MCNet):
    """MC-Net with a third decoder, which goes up by nearest voxels."""

    ways_up = ("linear", "nearest")
