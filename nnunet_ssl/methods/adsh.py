"""Adaptive thresholding (Adsh).

L.-Z. Guo and Y.-F. Li, "Class-Imbalanced Semi-Supervised Learning with Adaptive Thresholding", ICML 2022; per voxel and
for two networks, as Wang and Li compare it with DHC, MICCAI 2023.

    A, B          two networks of one architecture, from different random draws;  x = [x_l; x_u]
    y_n = argmax n(x),  p_n = max softmax n(x),  n = A, B                                      without gradient
    C_n,k         p_n of the unlabeled voxels with y_n = k, over `interval` steps
    rho_n         share of C_n,k that is at least tau_1, of the most frequent class k of y_n
    tau_n,k       the threshold that the same share rho_n of C_n,k reaches; 0 at first
    M_n = [p_n >= tau_n,k],  k = y_n

    L = L_sup(A(x_l), y) + L_sup(B(x_l), y) + w(r) [mean M_B CE(A(x), y_B) + mean M_A CE(B(x), y_A)]

One threshold for all would keep many pseudo-labels of frequent classes and few of rare ones. The means are over all
voxels, admitted or not; w(r) = lambda exp(-5 (1 - r)^2). tau_n,k is never above tau_1 nor below 1/C, admits one voxel
at least, and stays where y_n has no voxel of k; C is kept as histograms of 1000 bins. Both networks predict: the mean
of their logits. In images the most frequent class is the easy background: rho is soon near 1, and Adsh near CPS. For
regions inside and outside of each are classes of their own.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nnunet_ssl.losses.confidence import admitted_cross_entropy, admitted_shares
from nnunet_ssl.memory.adaptive_thresholds import AdaptiveThresholds
from nnunet_ssl.methods.adsh_dhc import AdshDHC
from nnunet_ssl.networks.net import Output


class Adsh(AdshDHC):
    """Two networks that teach each other with the pseudo-labels above a threshold of their class.

    Args:
        majority_threshold: tau_1, threshold of the most frequent class.
        interval: steps between updates of the thresholds.
        ramped: see `RampedMethod`.

    Raises:
        ValueError: a value is out of range.
    """

    presets = {"dhc": AdshDHC, "published": {"majority_threshold": 0.95, "weight": 1.0, "rampup": 0.0}}
    memory = AdaptiveThresholds

    def __init__(self, majority_threshold: float = 0.9, interval: int = 250, **ramped: Any):
        super().__init__(majority_threshold, interval, **ramped)

    def cross(self, a: Output, b: Output) -> Tensor:
        """mean M_B CE(A(x), y_B) + mean M_A CE(B(x), y_A); reports the shares of M_A that are 1."""
        admitted_a, admitted_b = (each.admitted(output) for each, output in zip(self.thresholds, (a, b), strict=True))
        self.report.update(admitted_shares(a.hard, admitted_a, self.task))
        return admitted_cross_entropy(a, b.hard, admitted_b) + admitted_cross_entropy(b, a.hard, admitted_a)
