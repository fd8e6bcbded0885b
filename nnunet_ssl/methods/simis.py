"""Simple baseline for imbalanced semi-supervised learning (SimiS), as class weights.

H. Chen, Y. Fan, Y. Wang, J. Wang, B. Schiele, X. Xie, M. Savvides, B. Raj, "An Embarrassingly Simple Baseline for
Imbalanced Semi-Supervised Learning", arXiv 2211.11086, 2022; in the form in which DHC (MICCAI 2023) compares with it.

    A, B          two networks of one architecture, from different random draws;  x = [x_l; x_u]
    P_k           share of class k among the voxels that a network says in x,  y_n = argmax n(x),  n = A, B
    v_n <- m v_n + (1 - m) C (max P - P_k),  w_n = max(v_n, C eps);  v_n = C before the labels of the labeled cases

    L_n = CE_wn(n(x_l), y) - mean_{k>=1} wn_k dice_k               over all scales with nnU-Net's scale weights
    L_cps = CE_wA(A(x), y_B) + CE_wB(B(x), y_A)                    at full resolution
    L = L_A + L_B + w(r) L_cps,  w(r) = lambda exp(-5 (1 - r)^2)

Weights are updated before the losses of the same step. CE_w is divided by the sum of its weights, so that C scales the
Dice only, and is 0 where that sum is. The most frequent class, the background, tends to C eps: with eps = 0 nothing
but the Dice of labeled patches soon keeps foreground from where it is not. For regions P has one more entry, the voxels
in none, which takes the background's part. Both networks predict: the mean of their logits.
"""

from __future__ import annotations

from typing import Any

from nnunet_ssl.memory.class_weights import ClassWeights, DifferenceWeights
from nnunet_ssl.method import check_range
from nnunet_ssl.methods.families import WeightedPair


class SimiS(WeightedPair):
    """Two networks that teach each other, where classes weigh more the further they lie below the most frequent one.

    Args:
        momentum: m, of the class weights.
        floor: eps, smallest weight of a class, relative to C.
        ramped: see `RampedMethod`.

    Raises:
        ValueError: a value is out of range.
    """

    presets = {"dhc": {"floor": 0.0}, "published": {"floor": 0.0}}

    def __init__(self, momentum: float = 0.99, floor: float = 0.01, **ramped: Any):
        super().__init__(**ramped)
        check_range("momentum", momentum, 0, 1)
        check_range("floor", floor, 0, 1)
        self.momentum = momentum
        self.floor = floor

    def class_weights(self, network: str) -> ClassWeights:
        return DifferenceWeights(self.task.kind, self.momentum, self.floor)
