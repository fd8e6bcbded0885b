"""Interpolation Consistency Training (ICT).

V. Verma, K. Kawaguchi, A. Lamb, J. Kannala, A. Solin, Y. Bengio, D. Lopez-Paz, "Interpolation Consistency Training for
Semi-Supervised Learning", IJCAI 2019.

    f, g          student and teacher; g is the moving average of f
    u, u'         unlabeled patches (weak view) and their partners: the batch rolled by a random number of places
    m             ~ Beta(a, a), one per pair
    x_mix = (1 - m) u + m u',  q = (1 - m) softmax g(u) + m softmax g(u')

    L = L_sup(f(x_l), y) + w(r) mean (softmax f(x_mix) - q)^2

The mean runs over patches, classes and voxels, at full resolution. No patch is its own partner. Labeled patches are not
mixed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nnunet_ssl.kinds import per_sample
from nnunet_ssl.method import Labeled, Now, Unlabeled, check_range
from nnunet_ssl.methods.families import TeacherStudent
from nnunet_ssl.networks.architecture import Architecture
from nnunet_ssl.networks.net import Net


class ICT(TeacherStudent):
    """Consistency between the prediction of a mixture and the mixture of predictions.

    Args:
        alpha: a, both parameters of the Beta distribution.
        teacher_student: see `TeacherStudent`.

    Raises:
        ValueError: a value is out of range.
    """

    presets = {"published": {"weight": 0.2}}

    def __init__(self, alpha: float = 0.2, **teacher_student: Any):
        super().__init__(**teacher_student)
        check_range("alpha", alpha, 1e-3)
        self.alpha = alpha

    def setup(self, net: Net, new_net: Architecture) -> None:
        if self.task.unlabeled_batch_size < 2:
            raise NotImplementedError("ICT mixes pairs of unlabeled patches: set unlabeled_batch_size to 2 or more.")
        super().setup(net, new_net)

    def losses(self, net: Net, labeled: Labeled, unlabeled: Unlabeled, now: Now) -> dict[str, Tensor]:
        image = unlabeled.weak
        shift = int(torch.randint(1, len(image), ()))
        drawn = torch.distributions.Beta(self.alpha, self.alpha).sample((len(image),))
        m = per_sample(drawn.to(image.device, non_blocking=True), image)
        seg, student = net(labeled.image, mixed(image, shift, m))
        target = mixed(self.teacher(image).probs, shift, m)
        return {
            "supervised": self.supervised(seg, labeled.target),
            "consistency": self.ramped_weight(now) * F.mse_loss(student.probs, target),
        }


def mixed(batch: Tensor, shift: int, m: Tensor) -> Tensor:
    """(1 - m) times each entry of (B, ...) plus m (B, 1, ...) times the one that rolling by `shift` puts there."""
    return batch + m * (batch.roll(shift, 0) - batch)
