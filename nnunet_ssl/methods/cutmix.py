"""CutMix consistency (CutMix-Seg), with the hard labels of FixMatch.

G. French, S. Laine, T. Aila, M. Mackiewicz, G. Finlayson, "Semi-supervised semantic segmentation needs strong, varied
perturbations", BMVC 2020.

    f, g          student and teacher; g is the moving average of f
    x_w, x_s      weak and strong view of the unlabeled patches: one geometry, x_s with nnU-Net's intensity changes
    B             a box for a patch, with the share v of its volume, or none with probability 1 - p
    cut(t)        t outside of B, inside B the t of another patch of the batch
    q = cut(g(x_w)),  y' = argmax q,  M = [max q >= tau]

    until the start: L = L_sup(f(x_l), y); then g <- f, and the learning rate starts anew
    L = L_sup(f(x_l), y) + w(r) sum_s w_s [mean M CE(f_s(cut(x_s)), y') + Dice_M(f_s(cut(x_s)), y')]

The sum over scales s, its weights and the Dice (of the admitted voxels, M) are nnU-Net's; y' is without gradient, and a
voxel below tau does not count. For regions each channel has its own y' and M. The teacher predicts. The preset
"published" is a step of its own, `CutMixPublished`.
"""

from __future__ import annotations

from torch import Tensor

from nnunet_ssl.augmentation.boxes import cut
from nnunet_ssl.losses.confidence import admitted_supervised
from nnunet_ssl.method import Labeled, Now, Unlabeled, check_range
from nnunet_ssl.methods.cutmix_published import CutMixPublished, draw_boxes
from nnunet_ssl.networks.net import Net, Output


class CutMix(CutMixPublished):
    """A teacher's confident pseudo-labels for patches with a box of another patch pasted into them.

    Args:
        start: where the unlabeled patches come in, as a fraction of training; 0 for the first step.
        threshold: tau, confidence from which a pseudo-label counts.
        volume: v, share of a patch that its box takes.
        probability: with which a patch gets a box.
        ema_decay: alpha, limit of the teacher's decay per step.
        deploy_teacher: predict with the teacher instead of the student.
        weight: lambda, weight of the pseudo-label term at the end of the ramp-up.
        rampup: rho, length of the ramp-up as a fraction of training; 0 for a constant weight.

    Raises:
        ValueError: a value is out of range.
    """

    views = ("weak", "strong")
    presets = {"published": CutMixPublished}

    def __init__(
        self,
        start: float = 0.5,
        threshold: float = 0.95,
        volume: float = 0.25,
        probability: float = 0.5,
        ema_decay: float = 0.99,
        deploy_teacher: bool = True,
        weight: float = 1.0,
        rampup: float = 0.0,
    ):
        super().__init__(threshold, volume, ema_decay, deploy_teacher, weight, rampup)
        check_range("start", start, 0, 0.99)
        check_range("probability", probability, 0, 1)
        self.phases = (start,) if start else ()
        self.labeled_first = bool(self.phases)
        self.probability = probability

    def losses(self, net: Net, labeled: Labeled, unlabeled: Unlabeled, now: Now) -> dict[str, Tensor]:
        if self.labeled_first and now.phase == 0:
            return {"supervised": self.supervised(net(labeled.image), labeled.target)}
        boxes = draw_boxes(unlabeled.weak, self.volume, self.probability)
        teacher = self.mixed_teacher(unlabeled, boxes)
        seg, student = net(labeled.image, cut(unlabeled.strong, boxes))
        return {
            "supervised": self.supervised(seg, labeled.target),
            "pseudo": self.ramped_weight(now) * self.pseudo(student, teacher),
        }

    def pseudo(self, student: Output, teacher: Output) -> Tensor:
        """Cross-entropy and Dice over all scales, of the admitted voxels."""
        return admitted_supervised(student, teacher.hard, self.admitted(teacher), self.task)
