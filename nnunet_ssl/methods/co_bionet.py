"""Co-BioNet: uncertainty-guided dual views.

H. Peiris, M. Hayat, Z. Chen, G. Egan, M. Harandi, "Uncertainty-guided dual-views for semi-supervised volumetric medical
image segmentation", Nature Machine Intelligence 2023.

    f1, f2        two networks of the plan's architecture, from different random draws
    e1, e2        a critic of each: for every voxel, whether a segmentation looks like ground truth
    a_n           softmax f_n([x_l; x_u]),  q_n its part of x_u
    M_n           [sigmoid e_n(q_n) > tau], without gradient
    BCE_n         -sum_c q_m ln q_n at a voxel of x_u, m the other network, q_m without gradient

    L   = sum_n { lambda_s L_sup(f_n(x_l), y) + w(r) [mean BCE_n + mean M_m BCE_n + mu mean -ln sigmoid e_n(a_n)] }
    L_e = sum_n 1/2 [mean -ln sigmoid e_n(y) + mean -ln(1 - sigmoid e_n(a_n))]         step of e, a without gradient

Each step has L for the networks, with the critics fixed, then L_e for the critics on what the networks had said. A
network counts the other's word twice where the other's critic believes it. For regions a and M are per region.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_ssl.distributed import mean_over_ranks
from nnunet_ssl.losses.divergence import soft_cross_entropy
from nnunet_ssl.method import Labeled, Now, Unlabeled, check_range
from nnunet_ssl.methods.families import AveragedPair
from nnunet_ssl.networks.architecture import Architecture
from nnunet_ssl.networks.critic import Critic
from nnunet_ssl.networks.net import Net, Output
from nnunet_ssl.networks.own_optimizer import OwnOptimizer


class CoBioNet(AveragedPair):
    """Two networks that teach each other, above all where a critic finds the other's word like ground truth.

    Args:
        threshold: tau, verdict of the critic above which a voxel counts twice.
        supervised_weight: lambda_s, weight of nnU-Net's loss.
        adversarial: mu, weight of deceiving the critic, beside the other unsupervised terms.
        critic_lr: learning rate of the critics' AdamW, constant.
        released: compute what the released code does: mean BCE_n has no gradient, mean M_m mean BCE_n stands for
            mean M_m BCE_n, and the critics stay as they are drawn.
        weight: lambda, weight of the unsupervised terms at the end of the ramp-up.
        rampup: rho, length of the ramp-up as a fraction of training; 0 for a constant weight.

    Raises:
        ValueError: a value is out of range.
    """

    presets = {"published": {"weight": 1.0}, "release": {"released": True, "weight": 1.0}}

    def __init__(
        self, threshold: float = 0.4, supervised_weight: float = 0.7, adversarial: float = 0.01,
        critic_lr: float = 1e-4, released: bool = False, weight: float = 0.1, rampup: float = 0.4,
    ):  # fmt: skip
        super().__init__(weight=weight, rampup=rampup)
        check_range("threshold", threshold, 0, 1)
        check_range("supervised_weight", supervised_weight, 0)
        check_range("adversarial", adversarial, 0)
        check_range("critic_lr", critic_lr, 0)
        self.threshold, self.supervised_weight, self.adversarial = threshold, supervised_weight, adversarial
        self.critic_lr, self.released = critic_lr, released

    def setup(self, net: Net, new_net: Architecture) -> None:
        super().setup(net, new_net)
        self.critic, self.twin_critic = critics = [Critic(net.kind).requires_grad_(False) for _ in "12"]
        adams = (torch.optim.AdamW(critic.parameters(), self.critic_lr) for critic in critics)
        self.optimizer, self.twin_optimizer = map(OwnOptimizer, adams)

    def losses(self, net: Net, labeled: Labeled, unlabeled: Unlabeled, now: Now) -> dict[str, Tensor]:
        first, second, sizes = self.both(net, labeled, unlabeled)
        (seg1, q1), (seg2, q2) = first.split(sizes), second.split(sizes)
        y, known = labeled.target.kind.masks(labeled.target.labels), labeled.target.annotated
        counted = None if known is None else torch.cat((known, known.new_ones(len(q2.logits), *known.shape[1:])))
        self.seen = (y, known), [(each.probs.detach(), counted) for each in (first, second)]  # until `after_step`
        deceived = self.critic.deceived(first.probs, counted) + self.twin_critic.deceived(second.probs, counted)
        weight = self.ramped_weight(now)
        return {
            "supervised": self.supervised_weight * self.supervised(seg1, labeled.target),
            "supervised_twin": self.supervised_weight * self.supervised(seg2, labeled.target),
            "adversarial": weight * self.adversarial * deceived,
        } | {name: weight * term for name, term in self.cross(q1, q2).items()}

    def cross(self, q1: Output, q2: Output) -> dict[str, Tensor]:
        """What each network learns from the other's word."""
        m1, m2 = self.critic.believes(q1, self.threshold), self.twin_critic.believes(q2, self.threshold)
        self.report["admitted"] = torch.stack((m1, m2)).float().mean()
        bce1, bce2 = soft_cross_entropy(q2.detach(), q1), soft_cross_entropy(q1.detach(), q2)
        everywhere = bce1.mean() + bce2.mean()
        if not self.released:
            return {"cross": everywhere, "believed": (m2 * bce1).mean() + (m1 * bce2).mean()}
        self.report["cross"] = everywhere.detach()
        return {"believed": share_of_mean(m2, bce1, q1) + share_of_mean(m1, bce2, q2)}

    def after_step(self, net: Net, now: Now) -> None:
        """The critics' own step, on what the networks have said in this iteration."""
        y, (a1, a2) = self.seen
        del self.seen
        if not self.released:  # one after the other, for what a critic keeps of every voxel is large
            error = self.optimizer.minimize(lambda: self.critic.error(y, a1))
            self.report["critics"] = error + self.twin_optimizer.minimize(lambda: self.twin_critic.error(y, a2))


def share_of_mean(mask: Tensor, losses: Tensor, output: Output) -> Tensor:
    """mean M mean BCE of voxel maps, for each region by itself; the mean over these."""
    mask, losses = output.kind.as_channels(mask), output.kind.as_channels(losses)
    axes = (0, *range(2, losses.ndim))
    return (mean_over_ranks(mask.float().mean(axes)) * losses.mean(axes)).mean()
