"""Uncertainty-Aware Mean Teacher (UA-MT).

L. Yu, S. Wang, X. Li, C.-W. Fu, P.-A. Heng, "Uncertainty-aware Self-ensembling Model for Semi-supervised 3D Left
Atrium Segmentation", MICCAI 2019. Mean Teacher whose consistency counts only where the teacher is certain.

    q    = softmax g(x_u + eps_0)                                  the target, as in Mean Teacher
    m    = 1/T sum_i softmax g_i(x_u + eps_i), i = 1..T            T stochastic passes, fresh noise and dropout each
    U    = -sum_c m_c ln(m_c + 1e-6)                               entropy per voxel
    tau  = (3/4 + 1/4 exp(-5 (1 - r)^2)) ln C                      r = fraction of training done
    L_c  = sum 1[U < tau] (softmax f(x_u) - q)^2 / (C sum 1[U < tau])

L_c takes the place of the mean in Mean Teacher; q and m are without gradient. Dropout is of whole channels of the
bottleneck and of the last decoder features, in the teacher's T passes only. For regions (sigmoid) U is the binary
entropy per channel with ln 2, and the mask is per channel.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nnunet_ssl.losses.consistency import masked_mse
from nnunet_ssl.method import Now, check_range
from nnunet_ssl.methods.mean_teacher import MeanTeacher
from nnunet_ssl.networks.architecture import Architecture
from nnunet_ssl.networks.dropout import dropout_places, mean_prediction
from nnunet_ssl.networks.net import Net, Output
from nnunet_ssl.schedules import gaussian_rampup


class UAMT(MeanTeacher):
    """Mean Teacher restricted to voxels of low predictive entropy.

    Args:
        passes: T, number of stochastic teacher passes.
        dropout: probability with which a feature channel is dropped in a stochastic pass.
        mean_teacher: see `MeanTeacher`.

    Raises:
        ValueError: a value is out of range.
    """

    def __init__(self, passes: int = 8, dropout: float = 0.5, **mean_teacher: Any):
        super().__init__(**mean_teacher)
        check_range("passes", passes, 1)
        check_range("dropout", dropout, 0, 0.99)
        self.passes = passes
        self.dropout = dropout

    def setup(self, net: Net, new_net: Architecture) -> None:
        super().setup(net, new_net)
        dropout_places(self.teacher.module)

    def consistency(self, student: Output, image: Tensor, now: Now) -> Tensor:
        target = self.teacher(self.noisy(image)).probs
        uncertainty = student.kind.entropy(self.mean_prediction(image))
        limit = (0.75 + 0.25 * gaussian_rampup(now.fraction)) * student.kind.max_entropy
        certain = uncertainty < limit
        self.report["certain_voxels"] = certain.float().mean()
        return masked_mse(student.probs, target, certain)

    def mean_prediction(self, image: Tensor) -> Tensor:
        """m, the mean of T stochastic predictions, (B, C, *spatial) in float32."""
        noisy = (self.noisy(image) for _ in range(self.passes))
        return mean_prediction(self.teacher.module, self.teacher, noisy, self.dropout)
