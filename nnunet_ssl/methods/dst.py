"""Debiased Self-Training (DST).

B. Chen, J. Jiang, X. Wang, P. Wan, J. Wang, M. Long, "Debiased Self-Training for Semi-Supervised Learning", NeurIPS
2022; per voxel.

    psi, h        the plan's network up to its last layer, and that layer: f = h(psi), which predicts
    h_p, h_w      pseudo and worst head: two layers on the features that h reads
    x_w, x_s      weak and strong view of one unlabeled patch: the same geometry, x_s with nnU-Net's intensity changes
    c = argmax f,  M = [max softmax f(x_w) > tau]                                   without gradient
    R             changes nothing on the way there and multiplies the gradient by -mu (2 / (1 + exp(-r / N)) - 1)

    L_st = mean M CE(h_p(psi(x_s)), c(x_w))
    L_wc = eta_l CE(h_w(R(psi(x_l))), c(x_l)) + mean -ln(1 - softmax h_w(R(psi(x_w)))[c(x_w)] + 1e-6)
    L = L_sup(f(x_l), y) + lambda L_st + eta L_wc

Pseudo-labels come from h, which learns true labels alone, and train h_p, so that their errors reach the features only.
h_w is the head that errs most among those that are right on labeled patches; through R the features learn to leave it
no room. Both terms are means over all voxels, L_st over those that are not admitted, too; of labeled patches those that
are annotated count. For regions each channel has its own c, confidence max(p, 1 - p) and M; CE is binary and p that of
the side that c says.

These are the roles of the paper. The preset "dhc" (`DSTDHC`) has those of DHC's code, where h_p never learns.
"""

from __future__ import annotations

from torch import Tensor

from nnunet_ssl.losses.confidence import admitted_cross_entropy, admitted_shares
from nnunet_ssl.losses.worst_case import worst_case
from nnunet_ssl.method import Labeled, Method, Now, Unlabeled, check_range
from nnunet_ssl.methods.dst_dhc import DSTDHC
from nnunet_ssl.networks.adversarial import reversed_gradient
from nnunet_ssl.networks.architecture import Architecture
from nnunet_ssl.networks.net import Net, Output, run
from nnunet_ssl.networks.projection import VoxelHead
from nnunet_ssl.networks.taps import require_unet
from nnunet_ssl.schedules import reversal_coefficient


class DST(Method):
    """Pseudo-labels train a head of their own, and features withstand the worst head that labels allow.

    Args:
        threshold: tau, confidence above which a pseudo-label counts.
        weight: lambda, weight of the self-training.
        worst_weight: eta, weight of the worst case.
        labeled_weight: eta_l, weight of labeled patches in the worst case.
        reversal: mu, limit of the coefficient of the reversed gradient.
        warmup: N, time in which that coefficient rises to 0.46 of its limit, as a fraction of training; 0 for none.
        width: features between the two layers of pseudo and worst head.

    Raises:
        ValueError: a value is out of range.
    """

    views = ("weak", "strong")
    presets = {"dhc": DSTDHC, "published": {"threshold": 0.7}}

    def __init__(
        self,
        threshold: float = 0.9,
        weight: float = 1.0,
        worst_weight: float = 1.0,
        labeled_weight: float = 2.0,
        reversal: float = 0.1,
        warmup: float = 0.022,
        width: int = 64,
    ):
        super().__init__()
        check_range("threshold", threshold, 0, 1)
        check_range("weight", weight, 0)
        check_range("worst_weight", worst_weight, 0)
        check_range("labeled_weight", labeled_weight, 0)
        check_range("reversal", reversal, 0)
        check_range("warmup", warmup, 0, 1)
        check_range("width", width, 1)
        self.threshold, self.weight, self.worst_weight = threshold, weight, worst_weight
        self.labeled_weight, self.reversal, self.warmup, self.width = labeled_weight, reversal, warmup, width

    def setup(self, net: Net, new_net: Architecture) -> None:
        net.tap("head")
        head = require_unet(net.module).decoder.seg_layers[-1]
        self.pseudo_head, self.worst_head = VoxelHead(head, self.width), VoxelHead(head, self.width)
        self.compiled = [net.compiled(each) for each in (self.pseudo_head, self.worst_head)]

    def losses(self, net: Net, labeled: Labeled, unlabeled: Unlabeled, now: Now) -> dict[str, Tensor]:
        seg, weak, strong = net(labeled.image, unlabeled.weak, unlabeled.strong)
        admitted = weak.confidence > self.threshold
        self.report.update(admitted_shares(weak.hard, admitted, self.task))
        pseudo = run(self.compiled[0], strong.features["head"], net.kind)
        self_training = admitted_cross_entropy(pseudo, weak.hard, admitted)
        worst = self.worst_case((seg, weak), labeled.target.annotated, now)
        return {
            "supervised": self.supervised(seg, labeled.target),
            "self_training": self.weight * self_training,
            "worst_case": self.worst_weight * worst,
        }

    def worst_case(self, main: tuple[Output, Output], annotated: Tensor | None, now: Now) -> Tensor:
        """L_wc of what f says of x_l and x_w, behind R, whose coefficient is reported."""
        coefficient = reversal_coefficient(now.fraction, self.warmup, self.reversal)
        self.report["reversal"] = coefficient
        features = [reversed_gradient(each.features["head"], coefficient) for each in main]
        labeled, unlabeled = (run(self.compiled[1], each, main[0].kind) for each in features)
        return worst_case((labeled, unlabeled), main, self.labeled_weight, annotated)
