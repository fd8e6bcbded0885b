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

import torch
from torch import Tensor, nn

from nnunet_ssl.losses.cross_entropy import cross_entropy, hard_labels
from nnunet_ssl.losses.weighted import weighted_supervised
from nnunet_ssl.memory.class_weights import DifficultyWeights, DistributionWeights, agreement, count_channels
from nnunet_ssl.method import Labeled, Now, Unlabeled, check_range
from nnunet_ssl.methods.families import TwoNetworks
from nnunet_ssl.networks.architecture import Architecture
from nnunet_ssl.networks.average import Average
from nnunet_ssl.networks.net import Net


class DHC(TwoNetworks):
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
        **ramped,
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

    @classmethod
    def model(cls, architecture: Architecture) -> nn.Module:
        return Average(architecture(), architecture())

    def setup(self, net: Net, new_net: Architecture) -> None:
        super().setup(net, new_net)
        kinds = ("difficulty", "distribution") if self.weighting == "both" else (self.weighting,) * 2
        self.debiasing = nn.ModuleList(map(self._weights, kinds))

    def _weights(self, kind: str) -> DifficultyWeights | DistributionWeights:
        channels, skip = len(self.task.channels), self.absent == "skip"
        if kind == "difficulty":
            return DifficultyWeights(channels, self.accumulation, self.alpha, skip)
        return DistributionWeights(channels + self.task.regions, self.momentum, skip)

    def losses(self, net: Net, labeled: Labeled, unlabeled: Unlabeled, now: Now) -> dict[str, Tensor]:
        sizes = [len(labeled.image), len(unlabeled.weak)]
        images = torch.cat((labeled.image, unlabeled.weak))
        a, b = net(images), self.second(images)
        y_a, y_b = hard_labels(a), hard_labels(b)
        w_a = self.updated_weights(self.debiasing[0], y_a.split(sizes), labeled.target, now)
        w_b = self.updated_weights(self.debiasing[1], y_b.split(sizes), labeled.target, now)
        for network, weights in (("A", w_a), ("B", w_b)):
            for name, value in zip(self.task.channels, weights, strict=True):
                self.report[f"class_weight_{network}[{name}]"] = value
        cross = cross_entropy(a.logits, y_b, a.regions, w_a) + cross_entropy(b.logits, y_a, b.regions, w_b)
        return {
            "supervised": weighted_supervised(a.split(sizes)[0], labeled.target, w_a, self.task),
            "supervised_twin": weighted_supervised(b.split(sizes)[0], labeled.target, w_b, self.task),
            "cross": self.ramped_weight(now) * cross,
        }

    @torch.no_grad()
    def updated_weights(
        self,
        weights: DifficultyWeights | DistributionWeights,
        predictions: tuple[Tensor, Tensor],
        target: Tensor | list[Tensor],
        now: Now,
    ) -> Tensor:
        """One network's class weights (C,) after its hard predictions for the labeled and the unlabeled patches."""
        channels, regions = len(self.task.channels), self.task.regions
        on_labeled, on_unlabeled = predictions
        if isinstance(weights, DifficultyWeights):
            labels, valid = self.task.split_target(target[0] if isinstance(target, list) else target)
            return weights.update(*agreement(on_labeled, labels, channels, regions, valid))
        if now.step == 0:
            weights.start(self.task.voxel_counts())
        return weights.update(count_channels(on_unlabeled, channels, regions))[:channels]

    def deployed(self, net: Net) -> nn.Module:
        return Average(net.module, self.twin)
