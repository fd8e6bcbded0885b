"""BoostMIS, its training.

W. Zhang, L. Zhu, J. Hallinan, S. Zhang, A. Makmur, Q. Cai, B. C. Ooi, "BoostMIS: Boosting Medical Image Semi-supervised
Learning with Adaptive Pseudo Labeling and Informative Active Annotation", CVPR 2022; per voxel.

    x_w, x_s      weak and strong view of one unlabeled patch: the same geometry, x_s with nnU-Net's intensity changes
    c_t           share of the voxels x_w with max softmax f(x_w) > alpha + beta over all of epoch t
    A             share of the last candidates that have been annotated, `Task.adopted_share`

    eps = alpha min(1, c_{t-1} / c_{t-2}) + beta A,  at least 1/C + delta;  alpha + beta from T_max on
    q = softmax f(x_w),  y' = argmax q,  M = [max q > eps]                          without gradient
    L_u = sum M CE(f(x_s), y') / sum M
    L = L_sup(f(x_l), y) + lambda L_u
    g <- m g + (1 - m) f,  m = min(1 - 1 / (s + 1), 0.999), after step s

Where the network is sure of less than before, the threshold falls, so that its pseudo-labels do not run dry; annotation
raises it. The ratio is 1 until two epochs are complete and where c_{t-2} is 0; L_u is 0 where nothing is admitted.
For regions each channel has its own y', confidence max(p, 1 - p) and M, and CE is binary. The student makes the
pseudo-labels; g predicts. Which cases to annotate is not part of training.
"""

from __future__ import annotations

from torch import Tensor

from nnunet_ssl.losses.confidence import admitted_cross_entropy, admitted_shares
from nnunet_ssl.losses.cross_entropy import weighted_mean
from nnunet_ssl.memory.learning_status import LearningStatus
from nnunet_ssl.method import Labeled, Now, Unlabeled, check_range
from nnunet_ssl.methods.families import TeacherStudent
from nnunet_ssl.networks.net import Net, Output


class BoostMIS(TeacherStudent):
    """Pseudo-labels of the weak view teach the strong one, above a threshold that follows what the network is sure of.

    Args:
        threshold: alpha, threshold while the network learns steadily and nothing has been annotated.
        annotation: beta, what annotation adds to it; the two add to 1 at most.
        annotated: least A; it is the share of the suggested cases that are labeled since the last adoption.
        fixed_from: T_max, as a fraction of training.
        margin: delta, by which the threshold exceeds a guess at least.
        of_all: L_u is divided by the number of all voxels and not of those admitted.
        weight, rampup: see `RampedMethod`.
        ema_decay, deploy_teacher: see `TeacherStudent`.

    Raises:
        ValueError: a value is out of range.
    """

    views = ("weak", "strong")
    presets = {"published": {"annotated": 1.0, "margin": 0.0}}

    def __init__(
        self,
        threshold: float = 0.9,
        annotation: float = 0.05,
        annotated: float = 0.0,
        fixed_from: float = 0.8,
        margin: float = 0.05,
        of_all: bool = False,
        weight: float = 1.0,
        rampup: float = 0.0,
        ema_decay: float = 0.999,
        deploy_teacher: bool = True,
    ):
        super().__init__(ema_decay, deploy_teacher, weight=weight, rampup=rampup)
        check_range("threshold", threshold, 0, 1)
        check_range("annotation", annotation, 0, 1 - threshold)
        check_range("annotated", annotated, 0, 1)
        check_range("fixed_from", fixed_from, 0, 1)
        check_range("margin", margin, 0, 0.5)
        self.threshold, self.annotation, self.annotated = threshold, annotation, annotated
        self.fixed_from, self.margin, self.of_all = fixed_from, margin, of_all
        self.status = LearningStatus(threshold + annotation)

    def losses(self, net: Net, labeled: Labeled, unlabeled: Unlabeled, now: Now) -> dict[str, Tensor]:
        labels, admitted = self.pseudo_labels(net.predict(unlabeled.weak), now)
        seg, strong = net(labeled.image, unlabeled.strong)
        return {
            "supervised": self.supervised(seg, labeled.target),
            "pseudo": self.ramped_weight(now) * self.pseudo_loss(strong, labels, admitted),
        }

    def pseudo_labels(self, weak: Output, now: Now) -> tuple[Tensor, Tensor]:
        """y' and M; reports eps and the share of voxels admitted, of all and of each pseudo-label."""
        labels, confidence = weak.hard, weak.confidence
        self.status.record(confidence, now.epoch)
        eps = self.eps(now)
        admitted = confidence > eps
        self.report.update({"threshold": eps} | admitted_shares(labels, admitted, self.task))
        return labels, admitted

    def eps(self, now: Now) -> Tensor | float:
        """The threshold of the epoch at hand, a scalar."""
        if now.fraction >= self.fixed_from:
            return self.threshold + self.annotation
        found = self.threshold * self.status.ratio() + self.annotation * max(self.annotated, self.task.adopted_share)
        return found.clamp_min(1 / self.task.kind.outcomes + self.margin)

    def pseudo_loss(self, strong: Output, labels: Tensor, admitted: Tensor) -> Tensor:
        """L_u, of labels and a mask in their shape."""
        if self.of_all:
            return admitted_cross_entropy(strong, labels, admitted)
        return weighted_mean(strong.kind.cross_entropy(strong.logits, labels), admitted.float())
