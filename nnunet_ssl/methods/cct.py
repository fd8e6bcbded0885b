"""Cross-Consistency Training (CCT).

Y. Ouali, C. Hudelot, M. Tami, "Semi-Supervised Semantic Segmentation with Cross-Consistency Training", CVPR 2020.

    e, d_0        encoder and decoder of the plan's network, which predicts
    d_1..d_K      auxiliary decoders from random draws of their own, K = 3
    P_1..P_K      noise, dropout and F-Drop of all features of the encoder
    q             softmax d_0(e(x_u)), without gradient

    L = L_sup(d_0(e(x_l)), y) + w(r) 1/K sum_k mean (softmax d_k(P_k(e(x_u))) - q)^2

Labels train the main decoder alone; unlabeled patches train the auxiliary decoders and, through them, the encoder. The
encoder runs once, on x_l and x_u together. The auxiliary decoders have one scale, full resolution. For regions softmax
is sigmoid. The preset "published" is a step of its own, `CCTPublished`: L_sup is the mean over all decoders there, and
q has a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nnunet_ssl.method import Labeled, Now, Unlabeled
from nnunet_ssl.methods.families import RampedMethod
from nnunet_ssl.networks.architecture import Architecture
from nnunet_ssl.networks.decoders import further_decoder
from nnunet_ssl.networks.net import Net, Output, run
from nnunet_ssl.networks.perturbations import element_dropout, feature_drop, feature_noise

PERTURBATIONS = {"noise": feature_noise, "dropout": element_dropout, "drop": feature_drop}  # P_1..P_K, in order


class CCTPublished(RampedMethod):
    """All decoders learn from labels and from each other: the structure of the medical code.

    Args:
        weight: lambda, weight of the consistency at the end of the ramp-up.
        perturb: perturb the features; without, only the decoders' weights differ.
        ramped: see `RampedMethod`.

    Raises:
        ValueError: a value is out of range.
    """

    def __init__(self, weight: float = 0.2, perturb: bool = True, **ramped: Any):
        super().__init__(weight, **ramped)
        self.perturb = perturb

    def setup(self, net: Net, new_net: Architecture) -> None:
        self.decoders = nn.ModuleList(further_decoder(new_net()) for _ in PERTURBATIONS)
        self.compiled = [net.compiled(decoder) for decoder in self.decoders]
        net.tap("skips")

    def losses(self, net: Net, labeled: Labeled, unlabeled: Unlabeled, now: Now) -> dict[str, Tensor]:
        sizes = [len(labeled.image), len(unlabeled.weak)]
        both = net(torch.cat((labeled.image, unlabeled.weak)))
        segs, free = zip(*(output.split(sizes) for output in (both, *self.auxiliary(both))), strict=True)
        return {
            "supervised": torch.stack([self.supervised(seg, labeled.target) for seg in segs]).mean(),
            "consistency": self.ramped_weight(now) * self.consistency(free[0], free[1:]),
        }

    def auxiliary(self, main: Output) -> list[Output]:
        """What each auxiliary decoder predicts from its perturbation of the encoder's features."""
        outputs, skips = [], main.features["skips"]
        for decoder, perturb in zip(self.compiled, PERTURBATIONS.values(), strict=True):
            outputs.append(run(decoder, [perturb(skip) for skip in skips] if self.perturb else skips, main.kind))
        return outputs

    def consistency(self, main: Output, outputs: Sequence[Output]) -> Tensor:
        """Mean over auxiliary decoders of the squared difference to q; reports each."""
        q = self.q(main)
        distances = [F.mse_loss(output.probs, q) for output in outputs]
        for name, distance in zip(PERTURBATIONS, distances, strict=True):
            self.report[f"distance[{name}]"] = distance.detach()
        return torch.stack(distances).mean()

    def q(self, main: Output) -> Tensor:
        """What the auxiliary decoders should say, (B, C, *spatial)."""
        return main.probs


class CCT(CCTPublished):
    """Auxiliary decoders learn to predict from perturbed features what the main decoder predicts from clean ones.

    Args:
        weight: lambda, weight of the consistency at the end of the ramp-up.
        perturb: perturb the features; without, only the decoders' weights differ.
        ramped: see `RampedMethod`.

    Raises:
        ValueError: a value is out of range.
    """

    presets = {"published": CCTPublished, "official": {"weight": 30.0, "rampup": 0.1}}

    def __init__(self, weight: float = 0.1, perturb: bool = True, **ramped: Any):
        super().__init__(weight, perturb, **ramped)

    def losses(self, net: Net, labeled: Labeled, unlabeled: Unlabeled, now: Now) -> dict[str, Tensor]:
        seg, main = net(labeled.image, unlabeled.weak)
        return {
            "supervised": self.supervised(seg, labeled.target),
            "consistency": self.ramped_weight(now) * self.consistency(main, self.auxiliary(main)),
        }

    def q(self, main: Output) -> Tensor:
        return main.probs.detach()
