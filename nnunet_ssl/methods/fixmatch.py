"""FixMatch.

K. Sohn, D. Berthelot, C.-L. Li, Z. Zhang, N. Carlini, E. D. Cubuk, A. Kurakin, H. Zhang, C. Raffel, "FixMatch:
Simplifying Semi-Supervised Learning with Consistency and Confidence", NeurIPS 2020; per voxel.

    x_w, x_s      weak and strong view of one unlabeled patch: the same geometry, x_s with nnU-Net's intensity changes
    q = softmax f(x_w),  y' = argmax q,  M = [max q >= tau]                          without gradient
    L = L_sup(f(x_l), y) + w(r) mean M CE(f(x_s), y')

The mean divides by all voxels, admitted or not, so that the term grows with confidence. For regions each channel has
its own y', confidence max(p, 1 - p) and M, and CE is binary. The student makes the pseudo-labels and predicts; with
`deploy_teacher` a moving average of its weights predicts.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from nnunet_ssl.losses.confidence import admitted_cross_entropy, admitted_shares
from nnunet_ssl.method import Labeled, Now, Unlabeled, check_range
from nnunet_ssl.methods.families import RampedMethod
from nnunet_ssl.networks.architecture import Architecture
from nnunet_ssl.networks.net import Net, Output
from nnunet_ssl.networks.teacher import Teacher


class FixMatch(RampedMethod):
    """Confident pseudo-labels of the weak view teach the strong view.

    Args:
        threshold: tau, confidence from which a pseudo-label counts.
        deploy_teacher: predict with a moving average of the weights instead of the student.
        ema_decay: alpha, limit of the decay of that average per step.
        ramped: see `RampedMethod`.

    Raises:
        ValueError: a value is out of range.
    """

    views: tuple[str, ...] = ("weak", "strong")
    presets = {"published": {"weight": 1.0, "rampup": 0.0}, "ssl4mis": {"weight": 0.2}}

    def __init__(
        self,
        threshold: float = 0.95,
        deploy_teacher: bool = False,
        ema_decay: float = 0.999,
        **ramped: Any,
    ):
        super().__init__(**ramped)
        check_range("threshold", threshold, 0, 1)
        check_range("ema_decay", ema_decay, 0, 1)
        self.threshold = threshold
        self.deploy_teacher = deploy_teacher
        self.ema_decay = ema_decay

    def setup(self, net: Net, new_net: Architecture) -> None:
        if self.deploy_teacher:
            self.teacher = Teacher(net, self.ema_decay)

    def losses(self, net: Net, labeled: Labeled, unlabeled: Unlabeled, now: Now) -> dict[str, Tensor]:
        labels, admitted = self.pseudo_labels(net.predict(unlabeled.weak))
        seg, strong = net(labeled.image, self.strong_view(unlabeled))
        pseudo = admitted_cross_entropy(strong, labels, admitted)
        return {
            "supervised": self.supervised(seg, labeled.target),
            "pseudo": self.ramped_weight(now) * pseudo,
        }

    def strong_view(self, unlabeled: Unlabeled) -> Tensor:
        """x_s, (B, channels, *spatial)."""
        return unlabeled.strong

    def pseudo_labels(self, weak: Output) -> tuple[Tensor, Tensor]:
        """y' and M; reports the share of voxels admitted, of all and of each pseudo-label."""
        labels, admitted = weak.hard, weak.confidence >= self.threshold
        self.report.update(admitted_shares(labels, admitted, self.task))
        return labels, admitted

    def after_step(self, net: Net, now: Now) -> None:
        if self.deploy_teacher:
            self.teacher.update(net, now.step)

    def deployed(self, net: Net) -> nn.Module:
        return self.teacher.module if self.deploy_teacher else net.module
