"""Correlation-Aware Mutual Learning (CAML).

S. Gao, Z. Zhang, J. Ma, Z. Li, S. Zhang, "Correlation-Aware Mutual Learning for Semi-supervised Medical Image
Segmentation", MICCAI 2023.

    V, A          the plan's network, which predicts; and one with attention among the voxels of a patch and among the
                  patches of a batch in its encoder, and with linear interpolation in its decoder
    h_n           features of each voxel before the head of n,  p_n = softmax n([x_l; x_u]),  n = V, A
    g_n, q_n      projection and prediction of features
    K             memory: of each labeled case (g_V(h_V) + g_A(h_A)) / 2 of the voxels of its last patch that both
                  networks have right; without gradient, g_n with its moving averages
    m             256 vectors of K of each class that has as many
    S             voxels of x_u where argmax p_V = argmax p_A, of each class those of largest max p_V
    R_n(v)        softmax_k(q_n(g_n(h_n(v))) . m_k / tau)
    s(p)          p^(1/T) / (p^(1/T) + (1 - p)^(1/T)) in each channel

    L_c = mean (p_V - s(p_A))^2 + mean (p_A - s(p_V))^2
    L_o = - mean_{v in S} sum_k R_A,k(v) ln(R_V,k(v) + 1e-8)
    L = lambda_s sum_n L_sup(n(x_l), y) + w(r) [L_c + omega L_o]

The gradient also runs through s and R_A. L_o is 0 while no class has enough vectors. Each region has two classes,
inside and outside, and an R over the vectors of these.
"""

from __future__ import annotations

import torch
from torch import Tensor, autocast

from nnunet_ssl.distributed import require_equal_batches
from nnunet_ssl.losses.consistency import mutual_consistency
from nnunet_ssl.memory.correlations import Correlations
from nnunet_ssl.method import Labeled, Now, Unlabeled, check_range
from nnunet_ssl.methods.families import TwoNetworks
from nnunet_ssl.networks.architecture import Architecture
from nnunet_ssl.networks.net import Net
from nnunet_ssl.networks.sample_attention import with_sample_attention
from nnunet_ssl.networks.taps import require_unet


class CAML(TwoNetworks):
    """Two networks, one of which sees other patches, relate each voxel alike to a memory of labeled ones.

    Args:
        correlation: omega, weight of L_o beside L_c.
        tau: temperature of the relations.
        memory: vectors of each class in m.
        max_voxels: of S, shared equally by the classes.
        dropout: of the attention.
        temperature: T, below 1.
        supervised_weight: lambda_s, of each network's supervised loss.
        weight: lambda, weight of L_c at the end of the ramp-up.
        rampup: rho, length of the ramp-up as a fraction of training; 0 for a constant weight.

    Raises:
        ValueError: a value is out of range.
    """

    def __init__(
        self,
        correlation: float = 0.05,
        tau: float = 0.1,
        memory: int = 256,
        max_voxels: int = 25600,
        dropout: float = 0.5,
        temperature: float = 0.1,
        supervised_weight: float = 0.5,
        weight: float = 1.0,
        rampup: float = 0.4,
    ):
        super().__init__(weight, rampup)
        check_range("correlation", correlation, 0)
        check_range("supervised_weight", supervised_weight, 0)
        check_range("tau", tau, 1e-3, 1)
        check_range("temperature", temperature, 1e-3, 1)
        check_range("memory", memory, 2)
        check_range("max_voxels", max_voxels, 2)
        check_range("dropout", dropout, 0, 0.99)
        self.omega, self.tau, self.memory, self.max_voxels = correlation, tau, memory, max_voxels
        self.dropout, self.temperature, self.supervised_weight = dropout, temperature, supervised_weight

    def setup(self, net: Net, new_net: Architecture) -> None:
        self.twin = with_sample_attention(new_net, self.task.patch_size, self.dropout)
        self.second = net.alike(self.twin)
        net.tap("head")
        self.second.tap("head")
        features = require_unet(net.module).decoder.seg_layers[-1].in_channels
        self.correlations = Correlations(
            self.task.kind, features, self.task.labeled_cases, self.memory, self.max_voxels, self.tau
        )

    def losses(self, net: Net, labeled: Labeled, unlabeled: Unlabeled, now: Now) -> dict[str, Tensor]:
        require_equal_batches(len(labeled.image))
        v, a, sizes = self.both(net, labeled, unlabeled)
        (seg_v, free_v), (seg_a, free_a) = v.split(sizes), a.split(sizes)
        draws = torch.Generator().manual_seed(now.step)  # the same on all ranks
        with autocast(v.logits.device.type, enabled=False):
            offset = float(torch.rand((), generator=draws))
            self.correlations.remember((seg_v, seg_a), labeled.target, labeled.cases, offset)
            correlation = self.correlations((free_v, free_a), draws)
        weight = self.ramped_weight(now)
        return {
            "supervised": self.supervised_weight * self.supervised(seg_v, labeled.target),
            "supervised_twin": self.supervised_weight * self.supervised(seg_a, labeled.target),
            "consistency": weight * mutual_consistency((v, a), self.temperature),
            "correlation": weight * self.omega * correlation,
        }
