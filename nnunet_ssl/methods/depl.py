"""Debiased pseudo-labeling (DePL, DebiasPL).

X. Wang, Z. Wu, L. Lian, S. X. Yu, "Debiased Learning from Naturally Imbalanced Pseudo-Labels", CVPR 2022; per voxel and
for two networks, as Wang and Li compare it with DHC, MICCAI 2023.

    A, B          two networks of one architecture, from different random draws;  x = [x_l; x_u]
    q_n           how often n says each class: 1/C at the start;  n = A, B

    p_n = softmax(n(x) - tau ln q_n),  y_n = argmax p_n,  M_n = [max p_n >= theta]         without gradient
    q_n <- m q_n + (1 - m) mean softmax n(x_u)
    l_n = n(x_l) and n(x_u) + tau ln q_n                                      the margin: larger for rare classes

    L = L_sup(A(x_l), y) + L_sup(B(x_l), y) + w(r) [mean M_B CE(l_A, y_B) + mean M_A CE(l_B, y_A)]

Means are over all voxels, admitted or not; w(r) = lambda exp(-5 (1 - r)^2). In the logarithm q lies between 1e-6 and
1 - 1e-6, or a class that is never said would be all pseudo-labels. At tau = 1 a structure of one voxel in 10 000 gets
nine logits, and predictions drown in false positives. For regions ln q is ln q / (1 - q), and each has its own y, M
and binary CE. Both networks predict: the mean of their logits as they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nnunet_ssl.losses.confidence import admitted_cross_entropy, admitted_shares
from nnunet_ssl.memory.prior import Prior
from nnunet_ssl.method import Labeled, Now, Unlabeled, check_range
from nnunet_ssl.methods.families import AveragedPair
from nnunet_ssl.networks.architecture import Architecture
from nnunet_ssl.networks.net import Net, Output


class DePL(AveragedPair):
    """Two networks that teach each other with pseudo-labels rid of their bias to frequent classes.

    Args:
        threshold: theta, confidence from which a debiased pseudo-label counts.
        strength: tau, of the debiasing and of the margin.
        momentum: m, of q.
        margin: whether the loss has the margin.
        by_position: q of each class at each position of the patch.
        ramped: see `RampedMethod`.

    Raises:
        ValueError: a value is out of range.
    """

    presets = {
        "dhc": {"strength": 1.0, "margin": False, "by_position": True},
        "published": {"threshold": 0.8, "momentum": 0.999, "weight": 10.0, "rampup": 0.0},
    }

    def __init__(
        self,
        threshold: float = 0.9,
        strength: float = 0.4,
        momentum: float = 0.99,
        margin: bool = True,
        by_position: bool = False,
        weight: float = 1.0,
        **ramped: Any,
    ):
        super().__init__(weight, **ramped)
        check_range("threshold", threshold, 0, 1)
        check_range("strength", strength, 0)
        check_range("momentum", momentum, 0, 1)
        self.threshold = threshold
        self.strength = strength
        self.momentum = momentum
        self.margin = margin
        self.by_position = by_position

    def setup(self, net: Net, new_net: Architecture) -> None:
        super().setup(net, new_net)
        patch = self.task.patch_size
        positions = patch if self.by_position else (1,) * len(patch)
        self.priors: Any = nn.ModuleList(Prior(self.task.kind, self.momentum, positions) for _ in "AB")

    def losses(self, net: Net, labeled: Labeled, unlabeled: Unlabeled, now: Now) -> dict[str, Tensor]:
        a, b, sizes = self.both(net, labeled, unlabeled)
        (seg_a, free_a), (seg_b, free_b) = a.split(sizes), b.split(sizes)
        prior_a, prior_b = self.priors
        labels_a, labels_b = self.pseudo_labels_of(a, prior_a), self.pseudo_labels_of(b, prior_b)
        self.report.update(admitted_shares(*labels_a, self.task))
        prior_a.update(free_a.probs)
        prior_b.update(free_b.probs)
        l_a, l_b = self.learner(seg_a, free_a, prior_a), self.learner(seg_b, free_b, prior_b)
        cross = admitted_cross_entropy(l_a, *labels_b) + admitted_cross_entropy(l_b, *labels_a)
        return {
            "supervised": self.supervised(seg_a, labeled.target),
            "supervised_twin": self.supervised(seg_b, labeled.target),
            "cross": self.ramped_weight(now) * cross,
        }

    def pseudo_labels_of(self, output: Output, prior: Prior) -> tuple[Tensor, Tensor]:
        """y_n and M_n."""
        debiased = Output([output.logits.detach().float() - self.strength * prior.logits()], output.kind)
        return debiased.hard, debiased.confidence >= self.threshold

    def learner(self, seg: Output, free: Output, prior: Prior) -> Output:
        """l_n."""
        margin = self.strength * prior.logits() if self.margin else 0
        return Output([torch.cat((seg.logits.float(), free.logits.float() + margin))], free.kind)
