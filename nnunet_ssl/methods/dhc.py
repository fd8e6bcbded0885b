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

from nnunet_ssl.memory.class_weights import ClassWeights, DifficultyWeights, DistributionWeights
from nnunet_ssl.method import check_range
from nnunet_ssl.methods.families import WeightedPair


class DHC(WeightedPair):
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

    def class_weights(self, network: str) -> ClassWeights:
        skip = self.absent == "skip"
        if self.weighting == "difficulty" or (self.weighting == "both" and network == "A"):
            return DifficultyWeights(self.task.kind, self.accumulation, self.alpha, skip)
        return DistributionWeights(self.task.kind, self.momentum, skip)
