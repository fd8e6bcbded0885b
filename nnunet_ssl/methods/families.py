"""What methods of one family share: a weight that ramps up, a student with its moving average, two networks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_ssl.losses.cross_entropy import cross_entropy
from nnunet_ssl.losses.weighted import weighted_supervised
from nnunet_ssl.memory.class_weights import ClassWeights
from nnunet_ssl.method import Labeled, Method, Now, Unlabeled, check_range
from nnunet_ssl.networks.architecture import Architecture
from nnunet_ssl.networks.average import Average
from nnunet_ssl.networks.net import Net, Output
from nnunet_ssl.networks.teacher import Teacher
from nnunet_ssl.schedules import gaussian_rampup
from nnunet_ssl.task import Target


class RampedMethod(Method):
    """A method whose unsupervised terms share one weight that ramps up, w(r) = lambda exp(-5 (1 - r / rho)^2).

    Args:
        weight: lambda, weight of the unsupervised terms at the end of the ramp-up.
        rampup: rho, length of the ramp-up as a fraction of training; 0 for a constant weight.

    The medical code (SSL4MIS), which most medical tables rest on, has lambda = 0.1 beside half of cross-entropy + Dice.
    Beside nnU-Net's loss, the whole of both, that is 0.2, and so it is in the presets "published" that rest on it.

    Raises:
        ValueError: a value is out of range.
    """

    def __init__(self, weight: float = 0.1, rampup: float = 1.0):
        super().__init__()
        check_range("weight", weight, 0)
        check_range("rampup", rampup, 0, 1)
        self.weight = weight
        self.rampup = rampup

    def ramped_weight(self, now: Now) -> float:
        """w(r), also reported."""
        weight = self.weight * gaussian_rampup(now.fraction, self.rampup)
        self.report["unsupervised_weight"] = weight
        return weight


class TeacherStudent(RampedMethod):
    """Keeps an EMA teacher of the student; where the method has phases, each begins with the student's weights.

    Args:
        ema_decay: alpha, limit of the teacher's decay per step.
        deploy_teacher: predict with the teacher instead of the student.
        ramped: see `RampedMethod`.

    Raises:
        ValueError: a value is out of range.
    """

    def __init__(self, ema_decay: float = 0.99, deploy_teacher: bool = False, **ramped: Any):
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


class TwoNetworks(RampedMethod):
    """Adds a twin of the plan's architecture with its own random weights; `second` is the twin as methods use it.

    Pretrained weights know it by the name `twin`.
    """

    def setup(self, net: Net, new_net: Architecture) -> None:
        self.twin = new_net()
        self.second = net.alike(self.twin)

    def both(self, net: Net, labeled: Labeled, unlabeled: Unlabeled) -> tuple[Output, Output, list[int]]:
        """What both networks say of [x_l; x_u], and how many patches x_l and x_u have."""
        images = torch.cat((labeled.image, unlabeled.weak))
        return net(images), self.second(images), [len(labeled.image), len(unlabeled.weak)]

    def pseudo_labels(self, first: Output, second: Output) -> tuple[Tensor, Tensor]:
        """y1 and y2, the hard labels of both networks; reports the share of voxels on which they agree."""
        y1, y2 = first.hard, second.hard
        self.report["agreement"] = (y1 == y2).float().mean()
        return y1, y2


class AveragedPair(TwoNetworks):
    """Two networks of one architecture; the mean of their logits predicts."""

    @classmethod
    def model(cls, architecture: Architecture) -> nn.Module:
        return Average(architecture(), architecture())

    def deployed(self, net: Net) -> nn.Module:
        return Average(net.module, self.twin)


class WeightedPair(AveragedPair, ABC):
    """Cross pseudo supervision of two networks, each with class weights w_A, w_B of its own in all of its losses.

        L_n = CE_wn(n(x_l), y) - mean_{k>=1} wn_k dice_k,  n = A, B     over all scales with nnU-Net's scale weights
        L = L_A + L_B + w(r) [CE_wA(A(x), y_B) + CE_wB(B(x), y_A)],  x = [x_l; x_u],  y_n = argmax n(x)

    CE_w is divided by the sum of its weights, so that their size scales the Dice only; it is 0 where that sum is. Both
    weights are updated before the losses of the same step, with what the network says in it.
    """

    @abstractmethod
    def class_weights(self, network: str) -> ClassWeights:
        """Those of a network, "A" or "B", as they are before training."""

    def setup(self, net: Net, new_net: Architecture) -> None:
        super().setup(net, new_net)
        self.debiasing: Any = nn.ModuleList(map(self.class_weights, "AB"))

    def losses(self, net: Net, labeled: Labeled, unlabeled: Unlabeled, now: Now) -> dict[str, Tensor]:
        a, b, sizes = self.both(net, labeled, unlabeled)
        w_a, w_b = self.updated_weights((a, b), sizes, labeled.target, now)
        cross = cross_entropy(a, b.hard, w_a) + cross_entropy(b, a.hard, w_b)
        return {
            "supervised": weighted_supervised(a.split(sizes)[0], labeled.target, w_a, self.task),
            "supervised_twin": weighted_supervised(b.split(sizes)[0], labeled.target, w_b, self.task),
            "cross": self.ramped_weight(now) * cross,
        }

    @torch.no_grad()
    def updated_weights(
        self, outputs: tuple[Output, Output], sizes: list[int], target: Target, now: Now
    ) -> list[Tensor]:
        """w_A and w_B after both networks' outputs for [x_l; x_u], also reported; sizes are those of x_l and x_u."""
        found = []
        for network, weights, output in zip("AB", self.debiasing, outputs, strict=True):
            if now.step == 0:
                weights.start(self.task.voxel_counts)
            found.append(weights.update(*output.hard.split(sizes), target))
            for name, value in zip(self.task.channels, found[-1], strict=True):
                self.report[f"class_weight_{network}[{name}]"] = value
        return found
