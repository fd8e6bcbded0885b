"""Class-rebalancing self-training (CReST).

C. Wei, K. Sohn, C. Mellina, A. Yuille, F. Yang, "CReST: A Class-Rebalancing Self-Training Framework for Imbalanced
Semi-Supervised Learning", CVPR 2021; per voxel.

    f             student; f0 are its weights before training
    X_u           unlabeled cases
    x_w, x_s      weak and strong view of one unlabeled patch: the same geometry, x_s with nnU-Net's intensity changes
    N_1 >= ... >= N_C   voxels of the classes in the labeled cases
    mu_c = (N_{C+1-c} / N_1)^(1/alpha)      share of the pseudo-labels of class c that is taken: of the rarest, all

    first generation:  L = L_sup(f(x_l), y)
    at the start of each further one, in each case of X_u:
        Y' <- P(argmax f(X_u)),  T <- of the voxels of each class c the share mu_c of which f is surest
        f <- f0,  and the learning rate starts anew
    in it:  q = softmax f(x_w),  M = [max q >= tau]                                    without gradient
        L = L_sup(f(x_l), y) + lambda L_sup(f(x_s), Y' in T) + eta mean M CE(f(x_s), argmax q)

A network that finds few of a rare class is mostly right where it does: these pseudo-labels join the labels, those of
frequent classes hardly do. L_sup is nnU-Net's loss over all scales, in T alone, f(X_u) its sliding window and P its
postprocessing, as in self-training. A class that no labeled case has is not taken. A voxel of regions counts as one of
the rarest region that f says, or of none, where f is as sure of it as of the region that it is least sure of.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_ssl.losses.confidence import admitted_cross_entropy, admitted_shares
from nnunet_ssl.memory.class_weights import reversed_rates
from nnunet_ssl.method import Labeled, Now, Unlabeled, check_range
from nnunet_ssl.methods.crest_dhc import CReSTDHC
from nnunet_ssl.methods.self_training import SelfTraining
from nnunet_ssl.networks.architecture import Architecture
from nnunet_ssl.networks.net import Net


class CReST(SelfTraining):
    """Generations of networks, each of which learns the last one's pseudo-labels, more of them the rarer their class.

    Args:
        generations: number of networks, which share training equally; 2 or more.
        alpha: the larger, the more of the frequent classes is taken.
        threshold: tau, confidence from which a voxel counts in the consistency of both views.
        weight: lambda, weight of the loss on pseudo-labels taken.
        consistency: eta, weight of the consistency of both views.

    Raises:
        ValueError: a value is out of range.
    """

    views = ("weak", "strong", "target")
    presets = {"dhc": CReSTDHC, "published": {"generations": 6, "consistency": 1.0}}
    rates: Tensor

    def __init__(
        self,
        generations: int = 3,
        alpha: float = 3.0,
        threshold: float = 0.95,
        weight: float = 1.0,
        consistency: float = 0.1,
    ):
        check_range("generations", generations, 2)
        super().__init__(generations - 1, 1 / generations, weight)
        check_range("alpha", alpha, 1)
        check_range("threshold", threshold, 0, 1)
        check_range("consistency", consistency, 0)
        self.alpha, self.threshold, self.consistency = alpha, threshold, consistency

    def setup(self, net: Net, new_net: Architecture) -> None:
        super().setup(net, new_net)
        self.register_buffer("rates", torch.ones(self.task.kind.entries))

    def losses(self, net: Net, labeled: Labeled, unlabeled: Unlabeled, now: Now) -> dict[str, Tensor]:
        if now.step == 0:
            self.rates.copy_(rates_of(self.task.voxel_counts(), self.alpha))
        if now.phase == 0:
            return super().losses(net, labeled, unlabeled, now)
        weak = net.predict(unlabeled.weak)
        admitted = weak.confidence >= self.threshold
        self.report.update(admitted_shares(weak.hard, admitted, self.task))
        seg, strong = net(labeled.image, unlabeled.strong)
        return {
            "supervised": self.supervised(seg, labeled.target),
            "pseudo": self.weight * self.supervised(strong, unlabeled.target),
            "consistency": self.consistency * admitted_cross_entropy(strong, weak.hard, admitted),
        }

    def known_voxels(self, case: str, logits: Tensor) -> Tensor:
        """T of a case, bool (*spatial)."""
        kind, rates = self.task.kind, self.rates.to(logits.device)
        rarity = torch.where(rates > 0, rates, 2)  # what no labeled case has is not taken where it meets other regions
        planes = [plane[None] for plane in logits.unbind(1)]  # one after the other: the logits of a case fill memories
        entry = torch.cat([kind.entry_of(kind.hard(plane), rarity) for plane in planes])
        doubt = torch.cat([kind.as_channels(kind.doubt(plane)).amax(1) for plane in planes])
        known = torch.zeros_like(doubt, dtype=torch.bool)
        for number, rate in enumerate(rates.tolist()):
            of_it = entry == number
            if taken := round(rate * int(of_it.sum())):
                known |= of_it & (doubt <= doubt[of_it].kthvalue(taken).values)
        return known


def rates_of(counts: Tensor, alpha: float) -> Tensor:
    """mu of voxel counts N (entries,), in their order; 0 for what has no voxel."""
    there = counts > 0
    return torch.zeros_like(counts).masked_scatter(there, reversed_rates(counts[there], alpha))
