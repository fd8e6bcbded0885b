"""Class-rebalancing self-training (CReST) as the code of DHC computes it: class weights, without generations.

H. Wang and X. Li, "DHC: Dual-debiased Heterogeneous Co-training Framework for Class-imbalanced Semi-supervised Medical
Image Segmentation", MICCAI 2023, in whose tables it stands.

    A, B          two networks of one architecture, from different random draws;  x = [x_l; x_u]
    N_1 >= ... >= N_C   voxels of the classes among y_n(x_u),  y_n = argmax n(x),  n = A, B
    w_n,c <- m w_n,c + (1 - m) (N_{C+1-c} / N_1)^(1/alpha)         at first that of the labels of the labeled cases

    L_n = CE_wn(n(x_l), y) - mean_{k>=1} wn_k dice_k               over all scales with nnU-Net's scale weights
    L_cps = CE_wA(A(x), y_B) + CE_wB(B(x), y_A)                    at full resolution
    L = L_A + L_B + w(r) L_cps,  w(r) = lambda exp(-5 (1 - r)^2)

The rarest class weighs 1. A class that no pseudo-label has counts as rarest with 1e-8 voxels, of several the last one,
so that present rare classes lose theirs; m dampens it. There the mean of both networks' logits predicts, here network
A: nnU-Net builds what predicts before any preset is known. For regions N has one more entry, the voxels in none.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from nnunet_ssl.memory.class_weights import ClassWeights, ReversedWeights
from nnunet_ssl.method import check_range
from nnunet_ssl.methods.families import WeightedPair
from nnunet_ssl.networks.architecture import Architecture
from nnunet_ssl.networks.net import Net


class CReSTDHC(WeightedPair):
    """Two networks that teach each other, where the rarest class weighs 1 and frequent ones as little as it is rare.

    Args:
        alpha: the larger, the more alike the weights of the classes.
        momentum: m, of the class weights.
        ramped: see `RampedMethod`.

    Raises:
        ValueError: a value is out of range.
    """

    def __init__(self, alpha: float = 3.0, momentum: float = 0.99, **ramped: Any):
        super().__init__(**ramped)
        check_range("alpha", alpha, 1)
        check_range("momentum", momentum, 0, 1)
        self.alpha = alpha
        self.momentum = momentum

    @classmethod
    def model(cls, architecture: Architecture) -> nn.Module:
        return cls.student(architecture)

    def class_weights(self, network: str) -> ClassWeights:
        return ReversedWeights(self.task.kind, self.momentum, self.alpha)

    def deployed(self, net: Net) -> nn.Module:
        return net.module
