"""Dual-debiased Heterogeneous Co-training (DHC).

H. Wang and X. Li, "DHC: Dual-debiased Heterogeneous Co-training Framework for Class-imbalanced Semi-supervised Medical
Image Segmentation", MICCAI 2023. Cross pseudo supervision of two networks with different class weights in all losses.

    A, B          two networks of one architecture, from different random draws
    wA            difficulty weights (DiffDW) of A's own Dice on labeled patches       see `class_weights.py`
    wB            distribution weights (DistDW) of B's own pseudo-labels on unlabeled patches
    L_n = CE_wn(n(x_l), y) - mean_{k>=1} wn_k dice_k        n = A, B; over all scales with nnU-Net's scale weights
    L_cps = CE_wA(A(x), yB) + CE_wB(B(x), yA)               x = [x_l; x_u], y. = argmax, at full resolution
    L = L_A + L_B + w(r) L_cps,  w(r) = 0.1 exp(-5 (1 - r)^2)

Both weights are updated before the losses of the same step. CE_w is divided by the sum of its weights, so the largest
weight C scales the Dice only. DistDW gives the most frequent class, the background, weight 0: background voxels give B
no cross-entropy, as published. Both networks predict: the mean of their logits.

Formulas are those of the published code; we differ where it divides 0 by 0 and relies on a skipped step (here the term
is 0 and weights stay), and in classes that a batch does not hold: their difficulty stays, and those that no label has
do not damp the weights of the others. `absent` = "half" (preset "published") is the code's Dice of 0.5 for them.
For regions, DiffDW takes the Dice per region and DistDW counts one more entry, voxels in no region, which takes the
background's part.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nnunet_ssl.losses.cross_entropy import cross_entropy
from nnunet_ssl.losses.weighted import weighted_supervised
from nnunet_ssl.memory.class_weights import ClassWeights, DifficultyWeights, DistributionWeights
from nnunet_ssl.method import Labeled, Now, Unlabeled, check_range
from nnunet_ssl.methods.families import AveragedPair
from nnunet_ssl.networks.architecture import Architecture
from nnunet_ssl.networks.net import Net, Output
from nnunet_ssl.task import Target


class DHC(AveragedPair):
    """Two networks that teach each other, one debiased by difficulty, the other by class distribution.

    Args:
        weighting: "both" (A difficulty, B distribution), or "difficulty" or "distribution" for both networks.
        accumulation: tau, number of steps over which difficulty is accumulated.
        alpha: exponent of the difficulty.
        momentum: of the distribution weights.
        absent: "skip" or "half", see above.
        ramped: see `RampedMethod`; weight 0 trains on labeled patches only.

    Raises:
        ValueError: a value is out of range.
    """

    presets = {"published": {"absent": "half"}}

    def __init__(
        self,
        weighting: str = "both",
        accumulation: float = 50.0,
        alpha: float = 0.2,
        momentum: float = 0.99,
        absent: str = "skip",
        **ramped: Any,
    ):
        super().__init__(**ramped)
        check_range("accumulation", accumulation, 1)
        check_range("alpha", alpha, 0)
        check_range("momentum", momentum, 0, 1)
        if weighting not in ("both", "difficulty", "distribution"):
            raise ValueError(f"weighting = {weighting!r} must be both, difficulty or distribution")
        if absent not in ("skip", "half"):
            raise ValueError(f"absent = {absent!r} must be skip or half")
        self.weighting = weighting
        self.accumulation = accumulation
        self.alpha = alpha
        self.momentum = momentum
        self.absent = absent

    def setup(self, net: Net, new_net: Architecture) -> None:
        super().setup(net, new_net)
        names = ("difficulty", "distribution") if self.weighting == "both" else (self.weighting,) * 2
        self.debiasing: Any = nn.ModuleList(map(self._weights, names))

    def _weights(self, name: str) -> ClassWeights:
        skip = self.absent == "skip"
        if name == "difficulty":
            return DifficultyWeights(self.task.kind, self.accumulation, self.alpha, skip)
        return DistributionWeights(self.task.kind, self.momentum, skip)

    def losses(self, net: Net, labeled: Labeled, unlabeled: Unlabeled, now: Now) -> dict[str, Tensor]:
        a, b, sizes = self.both(net, labeled, unlabeled)
        w_a, w_b = self.updated_weights((a, b), sizes, labeled.target, now)
        cross = cross_entropy(a, b.hard, w_a) + cross_entropy(b, a.hard, w_b)
        return {
            "supervised": weighted_supervised(a.split(sizes)[0], labeled.target, w_a, self.task),
            "supervised_twin": weighted_supervised(b.split(sizes)[0], labeled.target, w_b, self.task),
            "cross": self.ramped_weight(now) * cross,
        }

    @torch.no_grad()
    def updated_weights(
        self, outputs: tuple[Output, Output], sizes: list[int], target: Target, now: Now
    ) -> list[Tensor]:
        """w_A and w_B after both networks' outputs for [x_l; x_u], also reported; sizes are those of x_l and x_u."""
        found = []
        for network, weights, output in zip("AB", self.debiasing, outputs, strict=True):
            if now.step == 0:
                weights.start(self.task.voxel_counts)
            found.append(weights.update(*output.hard.split(sizes), target))
            for name, value in zip(self.task.channels, found[-1], strict=True):
                self.report[f"class_weight_{network}[{name}]"] = value
        return found
