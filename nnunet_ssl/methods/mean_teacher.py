"""Mean Teacher.

A. Tarvainen and H. Valpola, "Mean teachers are better role models", NeurIPS 2017; as used for medical segmentation
since Yu et al., MICCAI 2019.

    x_l, y        labeled patches and their targets
    x_u           unlabeled patches (weak view)
    f, g          student and teacher; g is the moving average of f
    eps           clamp(0.1 N(0, 1), -0.2, 0.2), per voxel and channel

    L = L_sup(f(x_l), y) + w(r) mean (softmax f(x_u) - softmax g(x_u + eps))^2
    w(r) = lambda exp(-5 (1 - r / rho)^2), r = fraction of training done
    g <- alpha g + (1 - alpha) f,  alpha = min(1 - 1 / (t + 1), 0.99), after step t

The mean runs over samples, all classes with background, and voxels, at full resolution. L_sup is nnU-Net's own loss
over all scales; one forward of the student serves x_l and x_u. The teacher is without gradient and in evaluation mode.
The student predicts.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from nnunet_ssl.augmentation.intensity import cut_noise
from nnunet_ssl.method import Labeled, Now, Unlabeled, check_range
from nnunet_ssl.methods.families import TeacherStudent
from nnunet_ssl.networks.net import Net, Output


class MeanTeacher(TeacherStudent):
    """Consistency of the student with its moving average under noise on the teacher's input.

    Args:
        noise: standard deviation of eps, in units of the normalized image; it is cut at twice this value.
        teacher_student: see `TeacherStudent`.

    Raises:
        ValueError: a value is out of range.
    """

    presets = {"published": {"weight": 0.2}}

    def __init__(self, noise: float = 0.1, **teacher_student: Any):
        super().__init__(**teacher_student)
        check_range("noise", noise, 0)
        self.noise = noise

    def losses(self, net: Net, labeled: Labeled, unlabeled: Unlabeled, now: Now) -> dict[str, Tensor]:
        seg, student = net(labeled.image, unlabeled.weak)
        return {
            "supervised": self.supervised(seg, labeled.target),
            "consistency": self.ramped_weight(now) * self.consistency(student, unlabeled.weak, now),
        }

    def consistency(self, student: Output, image: Tensor, now: Now) -> Tensor:
        """Mean squared difference of the student's probabilities to the teacher's on the noisy image."""
        return F.mse_loss(student.probs, self.teacher(self.noisy(image)).probs)

    def noisy(self, image: Tensor) -> Tensor:
        """x + eps."""
        return cut_noise(image, self.noise)
