"""CutMix consistency (CutMix-Seg) as it was published.

G. French, S. Laine, T. Aila, M. Mackiewicz, G. Finlayson, "Semi-supervised semantic segmentation needs strong, varied
perturbations", BMVC 2020.

    f, g          student and teacher; g is the moving average of f
    x_u           unlabeled patches (weak view)
    B             a box for a patch, with the share v of its volume
    cut(t)        t outside of B, inside B the t of another patch of the batch
    q = cut(softmax g(x_u)),  M = [max q >= tau]

    L = L_sup(f(x_l), y) + w(r) mean M  mean |softmax f(cut(x_u)) - q|^2

The square sums over channels, and the share of admitted voxels, mean M, weights the whole batch; q is without gradient.
For regions each channel has its own M. The teacher predicts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_ssl.augmentation.boxes import cut, random_boxes
from nnunet_ssl.distributed import mean_over_ranks
from nnunet_ssl.losses.confidence import admitted_shares
from nnunet_ssl.method import Labeled, Now, Unlabeled, check_range
from nnunet_ssl.methods.families import TeacherStudent
from nnunet_ssl.networks.architecture import Architecture
from nnunet_ssl.networks.net import Net, Output


class CutMixPublished(TeacherStudent):
    """A teacher's probabilities for patches with a box of another patch pasted into them.

    Args:
        threshold: tau, confidence from which a voxel adds to the weight.
        volume: v, share of a patch that its box takes.
        ema_decay: alpha, limit of the teacher's decay per step.
        deploy_teacher: predict with the teacher instead of the student.
        weight: lambda, weight of the consistency at the end of the ramp-up.
        rampup: rho, length of the ramp-up as a fraction of training; 0 for a constant weight.

    Raises:
        ValueError: a value is out of range.
    """

    def __init__(
        self,
        threshold: float = 0.97,
        volume: float = 0.5,
        ema_decay: float = 0.99,
        deploy_teacher: bool = True,
        weight: float = 1.0,
        rampup: float = 0.0,
    ):
        super().__init__(ema_decay, deploy_teacher, weight=weight, rampup=rampup)
        check_range("threshold", threshold, 0, 1)
        check_range("volume", volume, 0, 1)
        self.threshold = threshold
        self.volume = volume

    def setup(self, net: Net, new_net: Architecture) -> None:
        if self.task.unlabeled_batch_size < 2:
            raise NotImplementedError(
                "CutMix pastes between unlabeled patches: set unlabeled_batch_size to 2 or more for each GPU."
            )
        super().setup(net, new_net)

    def losses(self, net: Net, labeled: Labeled, unlabeled: Unlabeled, now: Now) -> dict[str, Tensor]:
        boxes = draw_boxes(unlabeled.weak, self.volume)
        teacher = self.mixed_teacher(unlabeled, boxes)
        seg, student = net(labeled.image, cut(unlabeled.weak, boxes))
        return {
            "supervised": self.supervised(seg, labeled.target),
            "consistency": self.ramped_weight(now) * self.consistency(student, teacher),
        }

    def mixed_teacher(self, unlabeled: Unlabeled, boxes: Tensor) -> Output:
        """The teacher's logits for the weak view, with the boxes of other patches."""
        teacher = self.teacher(unlabeled.weak)
        return Output([cut(teacher.logits, boxes)], teacher.kind)

    def consistency(self, student: Output, teacher: Output) -> Tensor:
        """mean M mean |softmax f - q|^2."""
        share = self.admitted(teacher).float().mean()
        return mean_over_ranks(share) * (student.probs - teacher.probs).square().sum(1).mean()

    def admitted(self, teacher: Output) -> Tensor:
        """M, in the shape of the teacher's labels; reports the share of voxels admitted."""
        admitted = teacher.confidence >= self.threshold
        self.report.update(admitted_shares(teacher.hard, admitted, self.task))
        return admitted


def draw_boxes(image: Tensor, volume: float, probability: float = 1.0) -> Tensor:
    """A box for each patch of (B, channels, *spatial), as a mask (B, 1, *spatial), with that share of its volume.

    A patch has its box with a probability, and none otherwise.

    A side's share of the patch's is the volume's to the power of an exponent; the exponents are uniform among those
    that add to 1. Boxes lie within the patch and have whole voxels.
    """
    patch = torch.tensor(image.shape[2:])
    sides = volume ** torch.distributions.Dirichlet(torch.ones(len(patch))).sample((len(image),))
    return random_boxes(image, (sides * patch).round() * (torch.rand(len(image), 1) < probability))
