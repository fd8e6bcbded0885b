"""Debiased Self-Training (DST) as the code of DHC computes it.

H. Wang and X. Li, "DHC: Dual-debiased Heterogeneous Co-training Framework for Class-imbalanced Semi-supervised Medical
Image Segmentation", MICCAI 2023, in whose tables it stands.

    e_n           encoder of the plan's architecture,  n = A, B: two networks from different random draws
    m_n, p_n, w_n main, pseudo and worst decoder, each a full one; p_n keeps its random weights, as no loss reaches it
    x = [x_l; x_u],  f_n = m_n(e_n)
    c_n = argmax f_n,  y_n = argmax p_n(e_n(x)),  M_n = [max softmax p_n(e_n(x)) > tau]       without gradient
    R             changes nothing on the way there and multiplies the gradient by -mu (2 / (1 + exp(-r / N)) - 1)

    L_cps = mean M_B CE(f_A(x), y_B) + mean M_A CE(f_B(x), y_A)
    L_wc,n = eta_l CE(w_n(R(e_n(x_l))), c_n(x_l)) + mean -ln(1 - softmax w_n(R(e_n(x_u)))[c_n(x_u)] + 1e-6)
    L = L_sup(f_A(x_l), y) + L_sup(f_B(x_l), y) + w(r) [L_cps + L_wc,A + L_wc,B],  w(r) = lambda exp(-5 (1 - r)^2)

R stands behind every scale of the encoder. L_cps is next to nothing, for a decoder that has learned nothing is hardly
ever sure: in effect these are two supervised networks with a worst case each. Network A predicts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nnunet_ssl.losses.confidence import admitted_cross_entropy
from nnunet_ssl.losses.worst_case import worst_case
from nnunet_ssl.method import Labeled, Now, Unlabeled, check_range
from nnunet_ssl.methods.families import TwoNetworks
from nnunet_ssl.networks.adversarial import reversed_gradient
from nnunet_ssl.networks.architecture import Architecture
from nnunet_ssl.networks.decoders import further_decoder
from nnunet_ssl.networks.net import Net, Output, run
from nnunet_ssl.schedules import reversal_coefficient


class DSTDHC(TwoNetworks):
    """Two networks, each with a decoder that never learns and one for the worst case.

    Args:
        threshold: tau, confidence above which a pseudo-label counts.
        labeled_weight: eta_l, weight of labeled patches in the worst case.
        reversal: mu, limit of the coefficient of the reversed gradient.
        warmup: N, time in which that coefficient rises to 0.46 of its limit, as a fraction of training; 0 for none.
        weight: lambda, weight of cross term and worst case at the end of the ramp-up.
        ramped: see `RampedMethod`.

    Raises:
        ValueError: a value is out of range.
    """

    def __init__(
        self,
        threshold: float = 0.95,
        labeled_weight: float = 2.0,
        reversal: float = 0.1,
        warmup: float = 0.21,
        weight: float = 1.0,
        **ramped: Any,
    ):
        super().__init__(weight=weight, **ramped)
        check_range("threshold", threshold, 0, 1)
        check_range("labeled_weight", labeled_weight, 0)
        check_range("reversal", reversal, 0)
        check_range("warmup", warmup, 0, 1)
        self.threshold, self.labeled_weight = threshold, labeled_weight
        self.reversal, self.warmup = reversal, warmup

    def setup(self, net: Net, new_net: Architecture) -> None:
        super().setup(net, new_net)
        self.pseudo: Any = nn.ModuleList(further_decoder(new_net()).requires_grad_(False) for _ in "AB")
        self.worst: Any = nn.ModuleList(further_decoder(new_net()) for _ in "AB")
        self.decoders = [[net.compiled(each) for each in pair] for pair in zip(self.pseudo, self.worst, strict=True)]
        for each in (net, self.second):
            each.tap("skips")

    def losses(self, net: Net, labeled: Labeled, unlabeled: Unlabeled, now: Now) -> dict[str, Tensor]:
        a, b, sizes = self.both(net, labeled, unlabeled)
        weight, c = self.ramped_weight(now), reversal_coefficient(now.fraction, self.warmup, self.reversal)
        pseudo_a, pseudo_b = (self.pseudo_labels_of(n, main) for n, main in enumerate((a, b)))
        cross = admitted_cross_entropy(a, *pseudo_b) + admitted_cross_entropy(b, *pseudo_a)
        worst, supervised = [], []
        for main, (_, decoder) in zip((a, b), self.decoders, strict=True):
            skips = [reversed_gradient(skip, c) for skip in main.features["skips"]]
            heads, parts = run(decoder, skips, main.kind).split(sizes), main.split(sizes)
            worst.append(worst_case(heads, parts, self.labeled_weight, labeled.target.annotated))
            supervised.append(self.supervised(parts[0], labeled.target))
        self.report |= {"reversal": c, "admitted": pseudo_b[1].float().mean()}
        return {
            "supervised": supervised[0],
            "supervised_twin": supervised[1],
            "cross": weight * cross,
            "worst_case": weight * torch.stack(worst).sum(),
        }

    @torch.no_grad()
    def pseudo_labels_of(self, network: int, main: Output) -> tuple[Tensor, Tensor]:
        """y_n and M_n of what its random decoder says."""
        output = run(self.decoders[network][0], main.features["skips"], main.kind)
        return output.hard, output.confidence > self.threshold
