"""A student with its moving average: what Mean Teacher and its descendants share."""

from __future__ import annotations

from torch import nn

from nnunet_ssl.method import Now, RampedMethod, check_range
from nnunet_ssl.networks.architecture import Architecture
from nnunet_ssl.networks.net import Net
from nnunet_ssl.networks.teacher import Teacher


class TeacherStudent(RampedMethod):
    """Keeps an EMA teacher of the student; where the method has phases, each begins with the student's weights.

    Args:
        ema_decay: alpha, limit of the teacher's decay per step.
        deploy_teacher: predict with the teacher instead of the student.
        ramped: see `RampedMethod`.

    Raises:
        ValueError: a value is out of range.
    """

    def __init__(self, ema_decay: float = 0.99, deploy_teacher: bool = False, **ramped):
        super().__init__(**ramped)
        check_range("ema_decay", ema_decay, 0, 1)
        self.ema_decay = ema_decay
        self.deploy_teacher = deploy_teacher

    def setup(self, net: Net, new_net: Architecture) -> None:
        self.teacher = Teacher(net, self.ema_decay)

    def begin_phase(self, net: Net, phase: int) -> None:
        self.teacher.copy_weights(net)

    def after_step(self, net: Net, now: Now) -> None:
        self.teacher.update(net, now.step)

    def deployed(self, net: Net) -> nn.Module:
        return self.teacher.module if self.deploy_teacher else net.module
