"""Ambiguity-Consensus Mean Teacher (AC-MT) by entropy, and by uncertainty over several passes (MU).

Z. Xu, Y. Wang, D. Lu, X. Luo, J. Yan, Y. Zheng, R. K.-Y. Tong, "Ambiguity-selective consistency regularization for
mean-teacher semi-supervised medical image segmentation", Medical Image Analysis 2023. Mean Teacher whose consistency
counts only where the prediction is ambiguous, the opposite of UA-MT.

    f, g          student, and teacher by moving average;  p = softmax f(x_u)
    q             softmax g(x_u + eps)                                    the target, as in Mean Teacher
    m             p; MU: 1/T sum_i softmax f_i(x_u + eps_i), i = 1..T     passes of the student, fresh noise and dropout
    H             -sum_c m_c ln(m_c + 1e-6) / ln C                        entropy per voxel
    tau           tau_0 + (tau_1 - tau_0) exp(-5 (1 - r)^2)               r = fraction of training done
    M             [H >= tau]                                              the ambiguous voxels, without gradient

    L = L_sup(f(x_l), y) + w(r) sum M (p - q)^2 / (C sum M)
    w(r) = lambda exp(-5 (1 - min(r / rho, 1))^2)

The last sum is 0 where no voxel is ambiguous. Dropout is of whole channels of the bottleneck and of the last decoder
features, in the T passes only. For regions H is the binary entropy by ln 2, M is per region. The student predicts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from nnunet_ssl.losses.consistency import masked_mse
from nnunet_ssl.method import Now, check_range
from nnunet_ssl.methods.mean_teacher import MeanTeacher
from nnunet_ssl.networks.architecture import Architecture
from nnunet_ssl.networks.dropout import dropout_places, mean_prediction
from nnunet_ssl.networks.net import Net, Output, run
from nnunet_ssl.schedules import gaussian_rampup


class AmbiguityConsensus(MeanTeacher, ABC):
    """Mean Teacher restricted to ambiguous voxels, whichever these are."""

    presets = {"published": {"weight": 0.2}}

    def __init__(self, rampup: float = 0.75, **mean_teacher: Any):
        super().__init__(rampup=rampup, **mean_teacher)

    @abstractmethod
    def ambiguous(self, student: Output, image: Tensor, now: Now) -> Tensor:
        """M, bool (B, 1, *spatial), for regions (B, C, *spatial); of f(x_u), without gradient, and x_u."""

    def elsewhere(self, student: Output, ambiguous: Tensor) -> Tensor | float:
        """What the voxels that are not ambiguous add to the consistency."""
        return 0.0

    def consistency(self, student: Output, image: Tensor, now: Now) -> Tensor:
        ambiguous = self.ambiguous(student.detach(), image, now)
        self.report["ambiguous_voxels"] = ambiguous.float().mean()
        target = self.teacher(self.noisy(image)).probs
        return masked_mse(student.probs, target, ambiguous) + self.elsewhere(student, ambiguous)


class ACMT(AmbiguityConsensus):
    """Mean Teacher restricted to voxels of which the student is unsure.

    Args:
        threshold_start: tau_0, share of the largest entropy from which a voxel is ambiguous at the start.
        threshold_end: tau_1, that at the end.
        mean_teacher: see `MeanTeacher`.

    Raises:
        ValueError: a value is out of range.
    """

    def __init__(self, threshold_start: float = 0.75, threshold_end: float = 0.95, **mean_teacher: Any):
        super().__init__(**mean_teacher)
        check_range("threshold_start", threshold_start, 0, 1)
        check_range("threshold_end", threshold_end, 0, 1)
        self.threshold_start, self.threshold_end = threshold_start, threshold_end

    def ambiguous(self, student: Output, image: Tensor, now: Now) -> Tensor:
        tau = self.threshold_start + (self.threshold_end - self.threshold_start) * gaussian_rampup(now.fraction)
        return student.kind.entropy(self.distribution(student, image)) >= tau * student.kind.max_entropy

    def distribution(self, student: Output, image: Tensor) -> Tensor:
        """m, (B, C, *spatial)."""
        return student.probs


class ACMT_MU(ACMT):
    """Mean Teacher restricted to voxels of which the student is unsure over several passes.

    Args:
        passes: T, number of stochastic passes of the student.
        dropout: probability with which a feature channel is dropped in such a pass.
        acmt: see `ACMT`, as for what is raised.
    """

    def __init__(self, passes: int = 8, dropout: float = 0.5, threshold_end: float = 0.9, **acmt: Any):
        super().__init__(threshold_end=threshold_end, **acmt)
        check_range("passes", passes, 1)
        check_range("dropout", dropout, 0, 0.99)
        self.passes, self.dropout = passes, dropout

    def setup(self, net: Net, new_net: Architecture) -> None:
        super().setup(net, new_net)
        dropout_places(net.module)
        self.net = net

    def distribution(self, student: Output, image: Tensor) -> Tensor:
        network, noisy = self.net.module, (self.noisy(image) for _ in range(self.passes))
        return mean_prediction(network, lambda each: run(network, each, student.kind), noisy, self.dropout)
