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

L_sup is nnU-Net's loss over all scales; y' is without gradient. The student predicts. The preset "published" is a step
of its own, `BCPPublished`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_ssl.kinds import per_sample
from nnunet_ssl.method import Labeled, Now, Unlabeled, check_range
from nnunet_ssl.methods.bcp_published import BCPPublished
from nnunet_ssl.networks.net import Net


class BCP(BCPPublished):
    """Boxes of labeled patches in unlabeled ones and the other way round, with the labels of both.

    Args:
        start: where the unlabeled patches come in, as a fraction of training.
        side: beta, share of each side of a patch that its box takes.
        probability: with which a pair is mixed; otherwise its patch is the unlabeled one as it is.
        ema_decay: limit of the teacher's decay per step.
        deploy_teacher: predict with the teacher instead of the student.
        weight: lambda, weight of the mixed patches at the end of the ramp-up.
        rampup: rho, length of the ramp-up as a fraction of training; 0 for a constant weight.

    Raises:
        ValueError: a value is out of range.
    """

    views = ("weak", "strong")
    presets = {"published": BCPPublished}

    def __init__(
        self,
        start: float = 0.5,
        side: float = 2 / 3,
        probability: float = 0.5,
        ema_decay: float = 0.99,
        deploy_teacher: bool = False,
        weight: float = 1.0,
        rampup: float = 0.0,
    ):
        super().__init__(start, side, ema_decay=ema_decay, deploy_teacher=deploy_teacher, weight=weight, rampup=rampup)
        check_range("probability", probability, 0, 1)
        self.probability = probability

    def losses(self, net: Net, labeled: Labeled, unlabeled: Unlabeled, now: Now) -> dict[str, Tensor]:
        if now.phase == 0:
            return {"supervised": self.supervised(net(labeled.image), labeled.target)}
        mixed = self.mixed(labeled, unlabeled.strong, self.teacher(unlabeled.weak))
        seg, output = net(labeled.image, mixed.image)
        return {
            "supervised": self.supervised(seg, labeled.target),
            "mixed": self.ramped_weight(now) * self.supervised(output, mixed.target),
        }

    def directions(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        from_labeled, is_in = super().directions(boxes)
        chosen = (torch.rand(len(boxes)) < self.probability).to(boxes.device, non_blocking=True)
        return from_labeled & per_sample(chosen, boxes), is_in
