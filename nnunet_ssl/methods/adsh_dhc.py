"""Adaptive thresholding (Adsh) as the code of DHC computes it.

H. Wang and X. Li, "DHC: Dual-debiased Heterogeneous Co-training Framework for Class-imbalanced Semi-supervised Medical
Image Segmentation", MICCAI 2023, in whose tables it stands.

    A, B          two networks of one architecture, from different random draws;  x = [x_l; x_u]
    p_n = softmax n(x),  y_n = argmax n(x),  n = A, B                                          without gradient
    rho_n         voxels with p_n,k > tau_1 over those with y_n = k, of the most frequent class k of y_n
    tau_n,k       the (int(rho_n N_k) + 1)-th largest of p_n,k over all unlabeled voxels of `interval` steps,
                  of which N_k have y_n = k; 0 at first
    G_n,k = [p_n,k > tau_n,k]

    L = L_sup(A(x_l), y) + L_sup(B(x_l), y) + w(r) [mean CE(A(x) G_B, y_B) + mean CE(B(x) G_A, y_A)]

The logits of the classes that do not pass are set to 0 instead of leaving the voxel out: where none passes the loss is
ln C without gradient, and where the label alone passes the other classes have no gradient. The code keeps the scores of
a quarter of the unlabeled cases and sorts them; `interval` is that of AMOS with 5 % labels, and histograms of 1000 bins
take the place of the scores. Both networks predict: the mean of their logits.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from nnunet_ssl.losses.cross_entropy import cross_entropy
from nnunet_ssl.memory.adaptive_thresholds import AdaptiveThresholds, ScoreThresholds
from nnunet_ssl.method import Labeled, Now, Unlabeled, check_range
from nnunet_ssl.methods.families import AveragedPair
from nnunet_ssl.networks.architecture import Architecture
from nnunet_ssl.networks.net import Net, Output


class AdshDHC(AveragedPair):
    """Two networks that teach each other, with logits that count above a threshold of their class.

    Args:
        majority_threshold: tau_1, threshold of the most frequent class.
        interval: steps between updates of the thresholds.
        ramped: see `RampedMethod`.

    Raises:
        ValueError: a value is out of range.
    """

    memory: type[AdaptiveThresholds] = ScoreThresholds

    def __init__(self, majority_threshold: float = 0.9, interval: int = 26, **ramped: Any):
        super().__init__(**ramped)
        check_range("majority_threshold", majority_threshold, 0, 1)
        check_range("interval", interval, 1)
        self.majority_threshold = majority_threshold
        self.interval = interval

    def setup(self, net: Net, new_net: Architecture) -> None:
        super().setup(net, new_net)
        self.thresholds: Any = nn.ModuleList(self.memory(self.task.kind, self.majority_threshold) for _ in "AB")

    def losses(self, net: Net, labeled: Labeled, unlabeled: Unlabeled, now: Now) -> dict[str, Tensor]:
        a, b, sizes = self.both(net, labeled, unlabeled)
        (seg_a, free_a), (seg_b, free_b) = a.split(sizes), b.split(sizes)
        cross = self.cross(a, b)
        for thresholds, free in zip(self.thresholds, (free_a, free_b), strict=True):
            thresholds.record(free)
        return {
            "supervised": self.supervised(seg_a, labeled.target),
            "supervised_twin": self.supervised(seg_b, labeled.target),
            "cross": self.ramped_weight(now) * cross,
        }

    def cross(self, a: Output, b: Output) -> Tensor:
        """mean CE(A(x) G_B, y_B) + mean CE(B(x) G_A, y_A); reports the share of G_A that is 1."""
        gate_a, gate_b = (each.admitted(output) for each, output in zip(self.thresholds, (a, b), strict=True))
        self.report["admitted"] = gate_a.float().mean()
        gated_a, gated_b = Output([a.logits * gate_b], a.kind), Output([b.logits * gate_a], b.kind)
        return cross_entropy(gated_a, b.hard) + cross_entropy(gated_b, a.hard)

    def after_step(self, net: Net, now: Now) -> None:
        if (now.step + 1) % self.interval == 0:
            for thresholds in self.thresholds:
                thresholds.refresh()
