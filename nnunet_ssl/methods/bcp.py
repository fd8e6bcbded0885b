"""Bidirectional Copy-Paste (BCP).

Y. Bai, D. Chen, Q. Li, W. Shen, Y. Wang, "Bidirectional Copy-Paste for Semi-Supervised Medical Image Segmentation",
CVPR 2023.

    f, g          student and teacher; g is the moving average of f
    x_l, y        labeled patches and their labels
    x_w, x_s      weak and strong view of the unlabeled patches: one geometry, x_s with nnU-Net's intensity changes
    B             a box for each pair of a labeled and an unlabeled patch, with the share beta of each side

    until the start: L = L_sup(f(x_l), y); then g <- f, and the learning rate starts anew
    y' = argmax g(x_w)
    x_in,  y_in  = x_l, y outside of B and x_s, y' inside       for one half of the pairs
    x_out, y_out = x_s, y' outside of B and x_l, y inside       for the other half
    x, y'' = x_in, y_in or x_out, y_out with probability p, else x_s, y'
    L = L_sup(f(x_l), y) + w(r) L_sup(f(x), y'')

L_sup is nnU-Net's loss over all scales. That true labels reach into unlabeled images, and pseudo-labels into labeled
ones, keeps the student from believing all that the teacher says. Patches as they are keep it from finding parts of a
structure where the image as a whole has none. That the pseudo-labels begin when the learning rate has come down to zero
keeps it from holding on to those of a network in mid-training.

The paper's step (`literal`, preset "published") has mixed patches alone, from one view:

    until the start: L = L_sup(f(x), y) of labeled patches with boxes of other labeled ones
    L = L_l + alpha L_u,  L_R = 1/2 [L_R(x_in) + L_R(x_out)],  L_R(x) = CE + Dice over the voxels of x that are R,
                                                              labeled (l) or not (u)

with its own learning rates, and alpha = 0.5. It keeps the largest component of the pseudo-labels of each patch, which
is wrong for structures of several parts and for patches that do not hold a whole image; use nnU-Net's postprocessing on
the predictions. It pastes each pair one way, as here, with one box for all pairs of a batch, and needs an even number
of pairs; here an odd one goes either way by chance. The paper selects the best weights of the first stage; here its
last go on. The student predicts.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from nnunet_ssl.augmentation.boxes import cut, random_boxes
from nnunet_ssl.distributed import mean_over_ranks
from nnunet_ssl.losses.confidence import admitted_supervised
from nnunet_ssl.losses.cross_entropy import hard_labels
from nnunet_ssl.method import Labeled, Now, Unlabeled, check_range
from nnunet_ssl.methods.families import TeacherStudent
from nnunet_ssl.networks.net import Net, Output


class BCP(TeacherStudent):
    """Boxes of labeled patches in unlabeled ones and the other way round, with the labels of both.

    Args:
        start: where the unlabeled patches come in, as a fraction of training.
        side: beta, share of each side of a patch that its box takes.
        probability: with which a pair is mixed; otherwise its patch is the unlabeled one as it is.
        literal: the paper's step.
        alpha: weight of pseudo-labeled voxels in the paper's step.
        ema_decay: limit of the teacher's decay per step.
        deploy_teacher: predict with the teacher instead of the student.
        weight: lambda, weight of the mixed patches at the end of the ramp-up.
        rampup: rho, length of the ramp-up as a fraction of training; 0 for a constant weight.

    Raises:
        ValueError: a value is out of range.
    """

    views = ("weak", "strong")
    labeled_first = True
    presets = {"published": {"start": 0.2, "probability": 1.0, "literal": True}}

    def __init__(
        self,
        start: float = 0.5,
        side: float = 2 / 3,
        probability: float = 0.5,
        literal: bool = False,
        alpha: float = 0.5,
        ema_decay: float = 0.99,
        deploy_teacher: bool = False,
        weight: float = 1.0,
        rampup: float = 0.0,
    ):
        super().__init__(ema_decay, deploy_teacher, weight=weight, rampup=rampup)
        check_range("start", start, 0.01, 0.99)
        check_range("side", side, 0, 1)
        check_range("probability", probability, 0, 1)
        check_range("alpha", alpha, 0)
        self.phases = (start,)
        self.side = side
        self.probability = probability
        self.literal = literal
        self.views = ("weak",) if literal else self.views
        self.alpha = alpha

    def losses(self, net: Net, labeled: Labeled, unlabeled: Unlabeled, now: Now) -> dict[str, Tensor]:
        if now.phase == 0:
            return {"supervised": self.first_stage(net, labeled)}
        y, boxes = full_resolution(labeled.target), self.boxes(unlabeled.weak)
        pair = torch.arange(len(unlabeled.weak), device=y.device) % len(y)
        inside, chosen = (pairs.to(y.device) for pairs in self.directions(len(pair)))
        each = (-1, *[1] * (y.ndim - 1))
        from_labeled = (boxes ^ inside.view(each)) & chosen.view(each)  # x_in has the box of the unlabeled patch
        pseudo = self.pseudo_target(self.teacher(unlabeled.weak), y)
        x = torch.where(from_labeled, labeled.image[pair], unlabeled.weak if self.literal else unlabeled.strong)
        y = torch.where(from_labeled, y[pair], pseudo)
        if self.literal:
            return self.apart(net(x), y, from_labeled, inside, self.ramped_weight(now))
        seg, mixed = net(labeled.image, x)
        return {
            "supervised": self.supervised(seg, labeled.target),
            "mixed": self.ramped_weight(now) * self.supervised(mixed, resized(y, labeled.target)),
        }

    def first_stage(self, net: Net, labeled: Labeled) -> Tensor:
        """nnU-Net's own loss; in the paper's step, of patches with boxes of the ones before."""
        if not self.literal:
            return self.supervised(net(labeled.image), labeled.target)
        boxes = self.boxes(labeled.image)
        x, y = (cut(each, boxes) for each in (labeled.image, full_resolution(labeled.target)))
        return self.supervised(net(x), resized(y, labeled.target))

    def boxes(self, image: Tensor) -> Tensor:
        """B, as masks (B, 1, *spatial)."""
        lengths = torch.tensor([int(self.side * size) for size in image.shape[2:]])
        return random_boxes(image, lengths.expand(len(image), -1))

    def directions(self, pairs: int) -> tuple[Tensor, Tensor]:
        """Which pairs make x_in, and which are mixed at all; of an odd number one goes either way."""
        into_labeled = pairs // 2 + (int(torch.randint(2, ())) if pairs % 2 else 0)
        return torch.arange(pairs) < into_labeled, torch.rand(pairs) < self.probability

    def pseudo_target(self, teacher: Output, target: Tensor) -> Tensor:
        """y' in the form of nnU-Net's target at full resolution; reports its share of foreground."""
        labels = hard_labels(teacher).float()
        labels = labels if teacher.regions else labels[:, None]
        self.report["pseudo_foreground"] = (labels > 0).any(1).float().mean()
        nothing_ignored = labels.new_zeros(len(labels), target.shape[1] - labels.shape[1], *labels.shape[2:])
        return torch.cat((labels, nothing_ignored), 1)

    def apart(
        self, mixed: Output, target: Tensor, from_labeled: Tensor, inside: Tensor, weight: float
    ) -> dict[str, Tensor]:
        """L_l and alpha L_u.

        Args:
            mixed: prediction for the mixed patches.
            target: y'', in the form of nnU-Net's target at full resolution.
            from_labeled: voxels of labeled patches, (B, 1, *spatial).
            inside: which patches are x_in, (B,).
            weight: of L_u beside alpha.
        """
        labels, annotated = self.task.split_target(target)
        guessed = ~from_labeled[:, 0]
        known = ~guessed if annotated is None else ~guessed & annotated
        kinds = torch.stack((inside, ~inside))
        there = mean_over_ranks(kinds.any(1).float()) > 0  # a rank with a single pair has but one kind

        def of_both(region: Tensor) -> Tensor:
            losses = []
            for kind in kinds:
                admitted = region & kind.view(-1, *[1] * (region.ndim - 1))
                admitted = admitted[:, None].expand_as(labels) if mixed.regions else admitted
                losses.append(admitted_supervised(mixed, labels, admitted, self.task, of_admitted=True))
            return (there * torch.stack(losses)).sum() / there.sum()

        return {"supervised": of_both(known), "pseudo": weight * self.alpha * of_both(guessed)}


def full_resolution(target: Tensor | list[Tensor]) -> Tensor:
    """nnU-Net's target at the resolution of the image, (B, channels, *spatial), as float."""
    return (target[0] if isinstance(target, list) else target).float()


def resized(target: Tensor, like: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
    """A target (B, channels, *spatial) at the scales of another, by the nearest voxel, as nnU-Net does."""
    if not isinstance(like, list):
        return target
    return [F.interpolate(target, scale.shape[2:], mode="nearest-exact") for scale in like]
