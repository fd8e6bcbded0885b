"""Deep Co-Training (DCT).

J. Peng, G. Estrada, M. Pedersoli, C. Desrosiers, "Deep co-training for semi-supervised image segmentation", Pattern
Recognition 2020, after S. Qiao et al., "Deep Co-Training for Semi-Supervised Image Recognition", ECCV 2018.

    f1, f2        two networks of the plan's architecture, from different random draws, both trained
    x             all patches, [x_l; x_u];  p_i = softmax f_i
    x^i           x + epsilon sign(d/dx CE(f_i(x), t_i)),  t_i = y on x_l, argmax f_i(x) on x_u

    L = L_sup(f1(x_l), y) + L_sup(f2(x_l), y) + w(r) JS(p_1(x_u), p_2(x_u))
        + v(r) 1/2 [KL(sg p_1(x) || p_2(x^1)) + KL(sg p_2(x) || p_1(x^2))]
    JS(p, q) = H((p + q) / 2) - (H(p) + H(q)) / 2,  sg: without gradient
    v(r) = lambda_v exp(-5 (1 - (r - r_0) / (rho - r_0))^2),  0 before r_0

JS and KL sum over classes and are means over patches and voxels, at full resolution. JS makes the networks agree. Each
has to see through the attacks on the other, which keeps them from becoming one function. For regions everything is
binary per channel. Network 1 predicts.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nnunet_ssl.losses.cross_entropy import cross_entropy
from nnunet_ssl.losses.divergence import jensen_shannon, kl
from nnunet_ssl.method import Labeled, Now, Unlabeled, check_range
from nnunet_ssl.methods.families import TwoNetworks
from nnunet_ssl.networks.adversarial import fast_gradient_sign
from nnunet_ssl.networks.net import Net, Output
from nnunet_ssl.schedules import gaussian_rampup
from nnunet_ssl.task import Target


class DCT(TwoNetworks):
    """Two networks that agree on unlabeled patches, each robust to the other's adversarial images.

    Args:
        weight: lambda, weight of the divergence between the networks at the end of the ramp-up.
        rampup: rho, where both ramp-ups end, as a fraction of training.
        adversarial_weight: lambda_v, weight of the adversarial term at the end of the ramp-up.
        adversarial_start: r_0, where the adversarial term begins, as a fraction of training.
        epsilon: change of each voxel by an attack, in units of the normalized image.

    Raises:
        ValueError: a value is out of range.
    """

    def __init__(
        self,
        weight: float = 0.5,
        rampup: float = 0.42,
        adversarial_weight: float = 0.05,
        adversarial_start: float = 0.17,
        epsilon: float = 0.03,
    ):
        super().__init__(weight, rampup)
        check_range("adversarial_weight", adversarial_weight, 0)
        check_range("adversarial_start", adversarial_start, 0, 1)
        check_range("epsilon", epsilon, 0)
        self.adversarial_weight = adversarial_weight
        self.adversarial_start = adversarial_start
        self.epsilon = epsilon

    def losses(self, net: Net, labeled: Labeled, unlabeled: Unlabeled, now: Now) -> dict[str, Tensor]:
        sizes = [len(labeled.image), len(unlabeled.weak)]
        images = torch.cat((labeled.image, unlabeled.weak))
        weight = self.ramped_adversarial_weight(now)
        if weight > 0:
            error = self.error(labeled.target, sizes)
            against1 = fast_gradient_sign(net.module, images, net.kind, error, self.epsilon)
            against2 = fast_gradient_sign(self.twin, images, net.kind, error, self.epsilon)
            (first, fooled1), (second, fooled2) = net(images, against2), self.second(images, against1)
            adversarial = weight * (robustness(first, fooled2) + robustness(second, fooled1)) / 2
        else:  # before its start the term is not worth three forwards
            first, second, adversarial = net(images), self.second(images), images.new_zeros(())
        (seg1, free1), (seg2, free2) = first.split(sizes), second.split(sizes)
        divergence = jensen_shannon(free1, free2).mean()
        return {
            "supervised": self.supervised(seg1, labeled.target),
            "supervised_twin": self.supervised(seg2, labeled.target),
            "agreement": self.ramped_weight(now) * divergence,
            "adversarial": adversarial,
        }

    def ramped_adversarial_weight(self, now: Now) -> float:
        """v(r), also reported."""
        since, length = now.fraction - self.adversarial_start, self.rampup - self.adversarial_start
        weight = self.adversarial_weight * gaussian_rampup(since, length) if since >= 0 else 0.0
        self.report["adversarial_weight"] = weight
        return weight

    def error(self, target: Target, sizes: list[int]) -> Callable[[Output], Tensor]:
        """CE(f(x), t) as a function of the output for [x_l; x_u], summed over the voxels that have a t."""

        def summed_error(output: Output) -> Tensor:
            goal, valid = torch.cat((target.labels, output.split(sizes)[1].hard)), None
            if target.annotated is not None:
                valid = torch.ones_like(output.logits[:, 0], dtype=torch.bool)
                valid[: sizes[0]] = target.annotated
            return cross_entropy(output, goal, valid=valid) * output.logits[:, 0].numel()

        return summed_error


def robustness(clean: Output, fooled: Output) -> Tensor:
    """Mean KL(sg p_i(x) || p_j(x^i)) of one network's predictions and the other's on the images made against it."""
    return kl(clean.detach(), fooled).mean()
