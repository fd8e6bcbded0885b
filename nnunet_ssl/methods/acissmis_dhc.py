"""ACISSMIS as the code of DHC computes it.

H. Wang and X. Li, "DHC: Dual-debiased Heterogeneous Co-training Framework for Class-imbalanced Semi-supervised Medical
Image Segmentation", MICCAI 2023, in whose tables it stands as "Basak et al.".

    x_l, y; x_u   labeled patches and their targets; unlabeled patches (weak view)
    f, g          student and teacher; g is the moving average of f

    D_1,k = p_k sum_j ln(p_j + 1e-12),  D_2,k = p_k,  D_3,k = max_j p_j - p_k,  p = softmax f(x_l)
    I_i,k         D_i,k of all patches of the batch, at the voxels where any of these has y = k, summed and divided by
                  the number of these voxels; 0 where there are none. Its mean over T steps
    R_i = softmax over classes of I_i
    K_ik = 1 - exp(-exp(-2 R_ik)),  F_ik = R_ik      of the 12 classes with the largest R_i, others 0.632 and 0
    cc_k = (1 - mean_i F_ik) sum_i K_ik, over its largest;  CC <- m CC + (1 - m) cc every T steps, 0 at first
    q_k = ((1 - CC_k) / max_j (1 - CC_j))^gamma

    y' = argmax g(x_u),  c = argmax f(x_u)                                                     without gradient
    s = 1 with probability q_c, else 0
    L = L_sup(f(x_l), y) + w(r) mean s (max softmax f(x_u))^beta CE(f(x_u), y'),  w(r) = lambda exp(-5 (1 - r)^2)
    g <- alpha g + (1 - alpha) f,  alpha = min(1 - 1 / (e + 1), 0.99),  e = number of the epoch

Through all of the first epoch the teacher is the student. The student predicts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nnunet_ssl.losses.confidence import admitted_cross_entropy
from nnunet_ssl.memory.class_confidence import FuzzyConfidence, FuzzyConfidenceDHC
from nnunet_ssl.method import Labeled, Now, Unlabeled, check_range
from nnunet_ssl.methods.families import TeacherStudent
from nnunet_ssl.networks.architecture import Architecture
from nnunet_ssl.networks.net import Net, Output


class ACISSMISDHC(TeacherStudent):
    """The teacher's pseudo-labels count for sure, and by chance as far as the class scores low.

    Args:
        gamma: exponent of the sampling rate; 0 to leave no voxel out.
        beta: exponent of the confidence that a voxel weighs by; 0 to weigh all alike.
        interval: T, steps between updates of the score.
        momentum: m, of the score.
        weight: lambda, weight of the pseudo-labels at the end of the ramp-up.
        teacher_student: see `TeacherStudent`.

    Raises:
        ValueError: a value is out of range.
    """

    memory: type[FuzzyConfidence] = FuzzyConfidenceDHC

    def __init__(
        self,
        gamma: float = 2.5,
        beta: float = 1.5,
        interval: int = 250,
        momentum: float = 0.99,
        weight: float = 1.0,
        **teacher_student: Any,
    ):
        super().__init__(weight=weight, **teacher_student)
        check_range("gamma", gamma, 0)
        check_range("beta", beta, 0)
        check_range("interval", interval, 1)
        check_range("momentum", momentum, 0, 1)
        self.gamma, self.beta = gamma, beta
        self.interval, self.momentum = interval, momentum

    def setup(self, net: Net, new_net: Architecture) -> None:
        super().setup(net, new_net)
        self.scores = self.memory(self.task.kind, self.momentum)

    def losses(self, net: Net, labeled: Labeled, unlabeled: Unlabeled, now: Now) -> dict[str, Tensor]:
        seg, student = net(labeled.image, unlabeled.weak)
        self.scores.add(seg.detach(), labeled.target)
        if (now.step + 1) % self.interval == 0:
            self.scores.refresh()
        weights, labels = self.weights(student.detach()), self.teacher(unlabeled.weak).hard
        return {
            "supervised": self.supervised(seg, labeled.target),
            "pseudo": self.ramped_weight(now) * admitted_cross_entropy(student, labels, weights),
        }

    def weights(self, student: Output) -> Tensor:
        """s (max softmax)^beta, a voxel map; reports the rates and the share of voxels that are left."""
        rates = self.scores.rates(self.gamma)
        rate = student.kind.weight_of(rates, student.hard)
        sampled = torch.rand_like(rate) < rate
        self.report |= {f"rate[{name}]": each for name, each in zip(self.task.channels, rates, strict=True)}
        self.report["sampled"] = sampled.float().mean()
        return sampled * student.confidence**self.beta

    def after_step(self, net: Net, now: Now) -> None:
        self.teacher.update(net, now.epoch)
