"""Bidirectional Copy-Paste (BCP) as it was published.

Y. Bai, D. Chen, Q. Li, W. Shen, Y. Wang, "Bidirectional Copy-Paste for Semi-Supervised Medical Image Segmentation",
CVPR 2023.

    f, g          student and teacher; g is the moving average of f
    x_l, y        labeled patches and their labels
    x_u           unlabeled patches (weak view)
    B             a box for each pair of a labeled and an unlabeled patch, with the share beta of each side

    until the start: L = L_sup(f(x), y) of labeled patches with boxes of other labeled ones; then g <- f
    y' = argmax g(x_u)
    x_in,  y_in  = x_l, y outside of B and x_u, y' inside       for one half of the pairs
    x_out, y_out = x_u, y' outside of B and x_l, y inside       for the other half
    L = L_l + alpha L_u,  L_R = 1/2 [L_R(x_in) + L_R(x_out)],  L_R(x) = CE + Dice over the voxels of x that are R,
                                                              labeled (l) or not (u)

y' is without gradient. The student predicts.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nnunet_ssl.augmentation.boxes import random_boxes
from nnunet_ssl.augmentation.mixing import pasted
from nnunet_ssl.distributed import mean_over_ranks
from nnunet_ssl.kinds import per_sample
from nnunet_ssl.losses.confidence import admitted_supervised
from nnunet_ssl.losses.supervised import of_annotated
from nnunet_ssl.method import Labeled, Now, Unlabeled, check_range
from nnunet_ssl.methods.families import TeacherStudent
from nnunet_ssl.networks.net import Net, Output
from nnunet_ssl.task import Target


class Mixed(NamedTuple):
    """Patches of two kinds of voxels.

    Attributes:
        image: x_in and x_out, (B, channels, *spatial).
        target: y_in and y_out, at the scales of nnU-Net's loss.
        from_labeled: the voxels of labeled patches, bool (B, 1, *spatial).
        is_in: which patches are x_in, bool (B,).
    """

    image: Tensor
    target: Target
    from_labeled: Tensor
    is_in: Tensor


class BCPPublished(TeacherStudent):
    """Boxes of labeled patches in unlabeled ones and the other way round; labels and pseudo-labels weigh apart.

    Args:
        start: where the unlabeled patches come in, as a fraction of training.
        side: beta, share of each side of a patch that its box takes.
        alpha: weight of pseudo-labeled voxels.
        ema_decay: limit of the teacher's decay per step.
        deploy_teacher: predict with the teacher instead of the student.
        weight: lambda, a further weight of pseudo-labeled voxels at the end of the ramp-up.
        rampup: rho, length of the ramp-up as a fraction of training; 0 for a constant weight.

    Raises:
        ValueError: a value is out of range.
    """

    labeled_first = True

    def __init__(
        self,
        start: float = 0.2,
        side: float = 2 / 3,
        alpha: float = 0.5,
        ema_decay: float = 0.99,
        deploy_teacher: bool = False,
        weight: float = 1.0,
        rampup: float = 0.0,
    ):
        super().__init__(ema_decay, deploy_teacher, weight=weight, rampup=rampup)
        check_range("start", start, 0.01, 0.99)
        check_range("side", side, 0, 1)
        check_range("alpha", alpha, 0)
        self.phases = (start,)
        self.side = side
        self.alpha = alpha

    def losses(self, net: Net, labeled: Labeled, unlabeled: Unlabeled, now: Now) -> dict[str, Tensor]:
        if now.phase == 0:
            mixed_labeled = pasted(labeled, self.boxes(labeled.image))
            return {"supervised": self.supervised(net(mixed_labeled.image), mixed_labeled.target)}
        mixed = self.mixed(labeled, unlabeled.weak, self.teacher(unlabeled.weak))
        return self.terms(net(mixed.image), mixed, self.ramped_weight(now))

    def terms(self, output: Output, mixed: Mixed, weight: float) -> dict[str, Tensor]:
        """L_l and alpha L_u, the latter with a further weight, of the output for the mixed patches."""
        output, target = of_annotated(output, mixed.target)
        mixed = mixed._replace(target=target)
        guessed = ~mixed.from_labeled[:, 0]
        annotated = mixed.target.annotated
        known = ~guessed if annotated is None else ~guessed & annotated
        return {
            "supervised": self.over(known, output, mixed),
            "pseudo": weight * self.alpha * self.over(guessed, output, mixed),
        }

    def mixed(self, labeled: Labeled, x_u: Tensor, teacher: Output) -> Mixed:
        """The mixed patches, one for each of x_u, with the teacher's labels of x_u where these are not labeled."""
        from_labeled, is_in = self.directions(self.boxes(x_u))
        pair = torch.arange(len(x_u), device=x_u.device) % len(labeled.image)
        pseudo = labeled.target.form(teacher.hard)
        self.report["pseudo_foreground"] = (
            teacher.kind.masks(teacher.hard, teacher.kind.background).any(1).float().mean()
        )
        image = torch.where(from_labeled, labeled.image[pair], x_u)
        target = torch.where(from_labeled, labeled.target.full[pair], pseudo)
        missing = None if labeled.target.missing is None else labeled.target.missing[pair] & from_labeled
        return Mixed(image, labeled.target.resized(target, missing), from_labeled, is_in)

    def boxes(self, image: Tensor) -> Tensor:
        """B, as masks (B, 1, *spatial)."""
        lengths = torch.tensor([int(self.side * size) for size in image.shape[2:]])
        return random_boxes(image, lengths.expand(len(image), -1))

    def directions(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Which voxels are of labeled patches, (B, 1, *spatial), and which patches are x_in, (B,)."""
        pairs = len(boxes)
        into_labeled = pairs // 2 + (int(torch.randint(2, ())) if pairs % 2 else 0)
        is_in = torch.arange(pairs, device=boxes.device) < into_labeled
        return torch.where(per_sample(is_in, boxes), ~boxes, boxes), is_in

    def over(self, voxels: Tensor, output: Output, mixed: Mixed) -> Tensor:
        """L_R, the mean of its values for x_in and for x_out, where R is a mask of voxels (B, *spatial)."""
        kinds = torch.stack((mixed.is_in, ~mixed.is_in))
        there = mean_over_ranks(kinds.any(1).float()) > 0  # a rank with a single pair has but one kind
        losses = []
        for patches in kinds:
            admitted = output.kind.spread(voxels & per_sample(patches, voxels))
            losses.append(admitted_supervised(output, mixed.target.labels, admitted, self.task, of_admitted=True))
        return (there * torch.stack(losses)).sum() / there.sum()
