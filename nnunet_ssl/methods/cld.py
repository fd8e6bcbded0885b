"""Calibrating label distribution (CLD).

Y. Lin, H. Yao, Z. Li, G. Zheng, X. Li, "Calibrating Label Distribution for Class-Imbalanced Barely-Supervised Knee
Segmentation", MICCAI 2022. Cross pseudo supervision mostly of classes that are rare or not yet learned.

    A, B          two networks of one architecture, from different random draws;  x = [x_l; x_u]
    n_k           voxels of class k in the labeled training cases;  w_k = min((max n / n_k)^(1/3), 100)
    c_n,k         mean probability of class k that n gives the labeled voxels of k;  n = A, B
    r_n,k         ((1 - c_n,k) / max_j (1 - c_n,j))^gamma
    y_n = argmax n(x),  s_n = 1 with probability r_n,k at voxels where y_n = k, else 0         without gradient

    L_n = CE_w(n(x_l), y) - mean_{k>=1} w_k dice_k               over all scales with nnU-Net's scale weights
    L_cps = mean s_A w_{y_B} CE(A(x), y_B) + mean s_B w_{y_A} CE(B(x), y_A)        at full resolution
    L = L_A + L_B + w(r) L_cps,  w(r) = lambda exp(-5 (1 - r)^2)

c is updated every 8 steps of the labeled patches of these, from then on with momentum m. Each network learns where it
is itself unsure: of classes it has learned a part of the voxels is left out, drawn anew in each step. The means of
L_cps are over all voxels, left out or not, and its weights are not divided by their sum. CE_w is, so that w scales the
Dice there. Both networks predict: the mean of their logits.

A class that no labeled case has counts as one voxel; one that no labeled patch had yet has c = 0. For regions inside
and outside of each have their own c and r, and w is that of the region.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nnunet_ssl.losses.confidence import admitted_cross_entropy
from nnunet_ssl.losses.weighted import weighted_supervised
from nnunet_ssl.memory.class_confidence import ClassConfidence
from nnunet_ssl.method import Labeled, Now, Unlabeled, check_range
from nnunet_ssl.methods.families import AveragedPair
from nnunet_ssl.networks.architecture import Architecture
from nnunet_ssl.networks.net import Net, Output


class CLD(AveragedPair):
    """Two networks that teach each other with class weights, most of all where they are unsure of a class.

    Args:
        gamma: exponent of the sampling rate; 0 to leave no voxel out.
        interval: steps between updates of the confidence c.
        momentum: m, of c.
        ramped: see `RampedMethod`.

    Raises:
        ValueError: a value is out of range.
    """

    presets = {"dhc": {"weight": 1.0}, "published": {"interval": 2}}
    w: Tensor

    def __init__(self, gamma: float = 0.5, interval: int = 8, momentum: float = 0.999, **ramped: Any):
        super().__init__(**ramped)
        check_range("gamma", gamma, 0)
        check_range("interval", interval, 1)
        check_range("momentum", momentum, 0, 1)
        self.gamma = gamma
        self.interval = interval
        self.momentum = momentum

    def setup(self, net: Net, new_net: Architecture) -> None:
        super().setup(net, new_net)
        self.register_buffer("w", torch.ones(self.task.kind.channels))
        self.confidences: Any = nn.ModuleList(ClassConfidence(self.task.kind, self.momentum) for _ in "AB")

    def losses(self, net: Net, labeled: Labeled, unlabeled: Unlabeled, now: Now) -> dict[str, Tensor]:
        if now.step == 0:
            self.w.copy_(balancing(self.task.voxel_counts())[: len(self.w)])
        a, b, sizes = self.both(net, labeled, unlabeled)
        (seg_a, _), (seg_b, _) = a.split(sizes), b.split(sizes)
        for confidence, seg in zip(self.confidences, (seg_a, seg_b), strict=True):
            confidence.add(seg.probs, labeled.target)
            if (now.step + 1) % self.interval == 0:
                confidence.refresh()
        s_a, s_b = (self.sampled(each, c) for each, c in zip((a, b), self.confidences, strict=True))
        self.report |= {"sampled_A": s_a.float().mean(), "sampled_B": s_b.float().mean()}
        return {
            "supervised": weighted_supervised(seg_a, labeled.target, self.w, self.task),
            "supervised_twin": weighted_supervised(seg_b, labeled.target, self.w, self.task),
            "cross": self.ramped_weight(now) * (self.taught(a, b.hard, s_a) + self.taught(b, a.hard, s_b)),
        }

    def sampled(self, output: Output, confidence: ClassConfidence) -> Tensor:
        """s_n, a bool voxel map."""
        rate = confidence.rates(self.gamma)[output.kind.outcome_of(output.hard)]
        return torch.rand_like(rate) < rate

    def taught(self, learner: Output, labels: Tensor, sampled: Tensor) -> Tensor:
        """mean s w_y CE."""
        return admitted_cross_entropy(learner, labels, sampled * learner.kind.weight_of(self.w, labels))


def balancing(counts: Tensor) -> Tensor:
    """(max n / n_k)^(1/3), at most 100, of voxels of each class; 0 voxels count as 1."""
    return (counts.max() / counts.clamp_min(1)).pow(1 / 3).clamp_max(100)
