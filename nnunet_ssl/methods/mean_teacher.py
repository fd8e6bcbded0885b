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
over all scales; one forward of the student serves x_l and x_u. The teacher has no dropout and is in evaluation mode
(nnU-Net's networks have no batch statistics, so this equals the training mode of the published code). lambda = 0.1 is
the value of the medical tables; it is about a thousand times weaker than the paper's own on CIFAR.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nnunet_ssl.method import Labeled, Method, Now, Unlabeled, check_range
from nnunet_ssl.networks.net import Net, Output
from nnunet_ssl.networks.teacher import Teacher
from nnunet_ssl.schedules import gaussian_rampup


class MeanTeacher(Method):
    """Consistency of the student with its moving average under noise on the teacher's input.

    Args:
        ema_decay: alpha, limit of the teacher's decay per step.
        weight: lambda, weight of the consistency at the end of the ramp-up.
        rampup: rho, length of the ramp-up as a fraction of training.
        noise: standard deviation of eps in units of the normalized image, clipped at twice its value.
        deploy_teacher: predict with the teacher and not with the student.

    Raises:
        ValueError: a value is out of range.
    """

    def __init__(
        self,
        ema_decay: float = 0.99,
        weight: float = 0.1,
        rampup: float = 1.0,
        noise: float = 0.1,
        deploy_teacher: bool = False,
    ):
        super().__init__()
        check_range("ema_decay", ema_decay, 0, 1)
        check_range("weight", weight, 0)
        check_range("rampup", rampup, 0, 1)
        check_range("noise", noise, 0)
        self.ema_decay = ema_decay
        self.weight = weight
        self.rampup = rampup
        self.noise = noise
        self.deploy_teacher = deploy_teacher

    def setup(self, net: Net, new_net: Callable[[], nn.Module]) -> None:
        self.teacher = Teacher(net, self.ema_decay)

    def losses(self, net: Net, labeled: Labeled, unlabeled: Unlabeled, now: Now) -> dict[str, Tensor]:
        seg, student = net(labeled.image, unlabeled.weak)
        weight = self.weight * gaussian_rampup(now.fraction, self.rampup)
        self.report["consistency_weight"] = weight
        return {
            "supervised": self.supervised(seg, labeled.target),
            "consistency": weight * self.consistency(student, unlabeled.weak, now),
        }

    def consistency(self, student: Output, image: Tensor, now: Now) -> Tensor:
        """Mean squared difference of the student's probabilities to the teacher's on the noisy image."""
        return F.mse_loss(student.probs, self.teacher(self.noisy(image)).probs)

    def noisy(self, image: Tensor) -> Tensor:
        """x + eps."""
        return image + (self.noise * torch.randn_like(image)).clamp_(-2 * self.noise, 2 * self.noise)

    def after_step(self, net: Net, now: Now) -> None:
        self.teacher.update(net, now.step)

    def deployed(self, net: Net) -> nn.Module:
        return self.teacher.module if self.deploy_teacher else net.module
