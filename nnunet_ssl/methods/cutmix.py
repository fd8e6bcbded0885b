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

The sum over scales s, its weights and the Dice (of the admitted voxels, M) are nnU-Net's. The box takes away the
surroundings that the teacher saw, so that the student has to know a structure by what is left of it. That the
pseudo-labels begin when the learning rate has come down to zero keeps it from holding on to those of a network in
mid-training.

The paper teaches probabilities from the first step on, on the weak view and with a box of half the image (preset
"published"):

    L = L_sup(f(x_l), y) + mean M  mean |softmax f(cut(x_w)) - q|^2

where the square sums over channels and the share of admitted voxels (tau = 0.97) weights the whole batch. With hard
labels a voxel below tau does not count, as in FixMatch (K. Sohn et al., NeurIPS 2020) and in UniMatch (L. Yang et al.,
CVPR 2023), which brought this kind of mixing to ACDC. For regions each channel has its own y' and M.

The paper's partner is a patch of a second batch; here it is the next one of the batch. Its boxes are drawn in 2D: one
side is v^u of the image's, the other v^(1 - u), with u uniform. In 3D the exponents are uniform among those that add to
1. The teacher predicts, as it makes the better labels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_ssl.augmentation.boxes import cut, random_boxes
from nnunet_ssl.distributed import mean_over_ranks
from nnunet_ssl.losses.confidence import admitted_shares, admitted_supervised, confidence
from nnunet_ssl.losses.cross_entropy import hard_labels
from nnunet_ssl.method import Labeled, Now, Unlabeled, check_range
from nnunet_ssl.methods.families import TeacherStudent
from nnunet_ssl.networks.architecture import Architecture
from nnunet_ssl.networks.net import Net, Output


class CutMix(TeacherStudent):
    """A teacher's confident pseudo-labels for patches with a box of another patch pasted into them.

    Args:
        start: where the unlabeled patches come in, as a fraction of training; 0 for the first step.
        threshold: tau, confidence from which a pseudo-label counts.
        volume: v, share of a patch that its box takes.
        probability: with which a patch gets a box.
        soft: teach probabilities with a squared error, on the weak view, as the paper does.
        ema_decay: alpha, limit of the teacher's decay per step.
        deploy_teacher: predict with the teacher instead of the student.
        weight: lambda, weight of the pseudo-label term at the end of the ramp-up.
        rampup: rho, length of the ramp-up as a fraction of training; 0 for a constant weight.

    Raises:
        ValueError: a value is out of range.
    """

    views = ("weak", "strong")
    presets = {"published": {"start": 0.0, "threshold": 0.97, "volume": 0.5, "probability": 1.0, "soft": True}}

    def __init__(
        self,
        start: float = 0.5,
        threshold: float = 0.95,
        volume: float = 0.25,
        probability: float = 0.5,
        soft: bool = False,
        ema_decay: float = 0.99,
        deploy_teacher: bool = True,
        weight: float = 1.0,
        rampup: float = 0.0,
    ):
        super().__init__(ema_decay, deploy_teacher, weight=weight, rampup=rampup)
        check_range("start", start, 0, 0.99)
        check_range("threshold", threshold, 0, 1)
        check_range("volume", volume, 0, 1)
        check_range("probability", probability, 0, 1)
        self.phases = (start,) if start else ()
        self.labeled_first = bool(self.phases)
        self.threshold = threshold
        self.volume = volume
        self.probability = probability
        self.soft = soft
        self.views = ("weak",) if soft else self.views

    def setup(self, net: Net, new_net: Architecture) -> None:
        if self.task.unlabeled_batch_size < 2:
            raise NotImplementedError(
                "CutMix pastes between unlabeled patches: set unlabeled_batch_size to 2 or more for each GPU."
            )
        super().setup(net, new_net)

    def losses(self, net: Net, labeled: Labeled, unlabeled: Unlabeled, now: Now) -> dict[str, Tensor]:
        if self.labeled_first and now.phase == 0:
            return {"supervised": self.supervised(net(labeled.image), labeled.target)}
        boxes = draw_boxes(unlabeled.weak, self.volume, self.probability)
        teacher = Output([cut(self.teacher(unlabeled.weak).logits, boxes)], net.regions)
        seg, student = net(labeled.image, cut(unlabeled.weak if self.soft else unlabeled.strong, boxes))
        return {
            "supervised": self.supervised(seg, labeled.target),
            "pseudo": self.ramped_weight(now) * self.pseudo(student, teacher),
        }

    def pseudo(self, student: Output, teacher: Output) -> Tensor:
        """The loss on the mixed patches; reports the share of voxels admitted."""
        labels, admitted = hard_labels(teacher), confidence(teacher) >= self.threshold
        self.report.update(admitted_shares(labels, admitted, self.task.channels, teacher.regions))
        if self.soft:
            return mean_over_ranks(admitted.float().mean()) * (student.probs - teacher.probs).square().sum(1).mean()
        return admitted_supervised(student, labels, admitted, self.task)


def draw_boxes(image: Tensor, volume: float, probability: float = 1.0) -> Tensor:
    """A box for each patch of (B, channels, *spatial), as a mask (B, 1, *spatial), with that share of its volume.

    A patch has its box with a probability, and none otherwise.

    A side's share of the patch's is the volume's to the power of an exponent; the exponents are uniform among those
    that add to 1. Boxes lie within the patch and have whole voxels.
    """
    patch = torch.tensor(image.shape[2:])
    sides = volume ** torch.distributions.Dirichlet(torch.ones(len(patch))).sample((len(image),))
    return random_boxes(image, (sides * patch).round() * (torch.rand(len(image), 1) < probability))
