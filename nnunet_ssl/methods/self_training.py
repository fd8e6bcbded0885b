"""Self-training with a frozen teacher (ST).

L. Yang, W. Zhuo, L. Qi, Y. Shi, Y. Gao, "ST++: Make Self-training Work Better for Semi-supervised Semantic
Segmentation", CVPR 2022, whose plain form this is; with several rounds, the recipe that won FLARE 2022 (Z. Huang et
al., "Revisiting nnU-Net for Iterative Pseudo Labeling and Efficient Sliding Window Inference").

    f             student; f0 are its weights before training
    g             teacher, frozen within a round
    x_w, x_s      weak and strong view of one unlabeled patch

    until the first round: L = L_sup(f(x_l), y)
    at the start of each round:  g <- f,  f <- f0,  and the learning rate starts anew
    in a round:  y' = argmax g(x_w)                                            without gradient
                 L = L_sup(f(x_l), y) + lambda L_sup(f(x_s), y')

L_sup is nnU-Net's loss over all scales. For regions y' = [g > 0] per channel. Within a round the learning rate comes
down to zero, so each teacher is a network whose training is over: pseudo-labels of a network in mid-training would hold
the student at the quality that such a network has, far below that of the end.

The papers label whole cases once and store them; here the teacher labels each patch in the view that the student
learns from, with nothing to store. They choose the cases whose pseudo-labels change least during training (ST++) or
between rounds (FLARE); here all count.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nnunet_ssl.losses.cross_entropy import hard_labels
from nnunet_ssl.method import Labeled, Method, Now, Unlabeled, check_range
from nnunet_ssl.networks.net import Net, Output
from nnunet_ssl.networks.teacher import Teacher


class SelfTraining(Method):
    """Pseudo-labels of a network whose training is over teach a new one, once or several times.

    Args:
        rounds: number of students after the first network; they share what is left of training equally.
        first_round: where the first round begins, as a fraction of training.
        weight: lambda, weight of the loss on pseudo-labels.

    Raises:
        ValueError: a value is out of range.
    """

    views = ("weak", "strong")

    def __init__(self, rounds: int = 1, first_round: float = 0.5, weight: float = 1.0):
        super().__init__()
        check_range("rounds", rounds, 1)
        check_range("first_round", first_round, 0.01, 0.99)
        check_range("weight", weight, 0)
        self.phases = tuple(first_round + (1 - first_round) * number / rounds for number in range(rounds))
        self.weight = weight

    def setup(self, net: Net, new_net: Callable[[], nn.Module]) -> None:
        self.start = Teacher(net, decay=0)
        self.teacher = Teacher(net, decay=0)

    def begin_phase(self, net: Net, phase: int) -> None:
        self.teacher.copy_weights(net)
        net.module.load_state_dict(self.start.module.state_dict())

    def losses(self, net: Net, labeled: Labeled, unlabeled: Unlabeled, now: Now) -> dict[str, Tensor]:
        if now.phase == 0:
            return {"supervised": self.supervised(net(labeled.image), labeled.target)}
        taught = self.teacher(unlabeled.weak)
        seg, student = net(labeled.image, unlabeled.strong)
        return {
            "supervised": self.supervised(seg, labeled.target),
            "pseudo": self.weight * self.supervised(student, self.target_of(taught, labeled.target)),
        }

    def target_of(self, output: Output, like: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
        """Pseudo-labels in the form of nnU-Net's target: all scales, and with an ignore label nothing ignored."""
        labels = hard_labels(output)
        labels = labels if output.regions else labels[:, None].float()
        if output.regions and self.task.ignore_label is not None:
            labels = torch.cat((labels, torch.zeros_like(labels[:, :1])), 1)
        if isinstance(like, Tensor):
            return labels
        return [F.interpolate(labels, size=scale.shape[2:], mode="nearest-exact") for scale in like]
