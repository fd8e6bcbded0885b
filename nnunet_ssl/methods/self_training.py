"""Self-training (ST).

L. Yang, W. Zhuo, L. Qi, Y. Shi, Y. Gao, "ST++: Make Self-training Work Better for Semi-supervised Semantic
Segmentation", CVPR 2022, whose plain form this is; with several rounds, the recipe that won FLARE 2022 (Z. Huang et
al., "Revisiting nnU-Net for Iterative Pseudo Labeling and Efficient Sliding Window Inference").

    f             student; f0 are its weights before training
    X_u           unlabeled cases
    x_s, y'       strong view of an unlabeled patch, and the pseudo-label there

    until the first round: L = L_sup(f(x_l), y)
    at the start of each round:  Y' <- P(argmax f(X_u)),  f <- f0,  and the learning rate starts anew
    in a round:  L = L_sup(f(x_l), y) + lambda L_sup(f(x_s), y')

L_sup is nnU-Net's loss over all scales, f(X_u) its sliding window, and P keeps the largest component of each structure
that is one component in every labeled case, as nnU-Net's postprocessing does. Within a round the learning rate comes
down to zero, so that the network which makes the pseudo-labels has always finished its training.
"""

from __future__ import annotations

from torch import Tensor

from nnunet_ssl.method import Labeled, Method, Now, Unlabeled, check_range
from nnunet_ssl.networks.architecture import Architecture
from nnunet_ssl.networks.net import Net
from nnunet_ssl.networks.teacher import Teacher


class SelfTraining(Method):
    """A network whose training is over labels the unlabeled cases for a new one, once or several times.

    Args:
        rounds: number of networks after the first; they share what is left of training equally.
        first_round: where the first round begins, as a fraction of training.
        weight: lambda, weight of the loss on pseudo-labels.

    Raises:
        ValueError: a value is out of range.
    """

    views: tuple[str, ...] = ("strong", "target")
    labeled_first = True

    def __init__(self, rounds: int = 1, first_round: float = 0.5, weight: float = 1.0):
        super().__init__()
        check_range("rounds", rounds, 1)
        check_range("first_round", first_round, 0.01, 0.99)
        check_range("weight", weight, 0)
        self.phases = tuple(first_round + (1 - first_round) * number / rounds for number in range(rounds))
        self.weight = weight

    def setup(self, net: Net, new_net: Architecture) -> None:
        self.start = Teacher(net, decay=0)  # f0

    def begin_phase(self, net: Net, phase: int) -> None:
        net.module.load_state_dict(self.start.module.state_dict())

    def losses(self, net: Net, labeled: Labeled, unlabeled: Unlabeled, now: Now) -> dict[str, Tensor]:
        if now.phase == 0:
            return {"supervised": self.supervised(net(labeled.image), labeled.target)}
        seg, student = net(labeled.image, unlabeled.strong)
        return {
            "supervised": self.supervised(seg, labeled.target),
            "pseudo": self.weight * self.supervised(student, unlabeled.target),
        }
