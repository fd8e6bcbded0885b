"""Two networks that teach each other and predict as one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_ssl.losses.cross_entropy import cross_entropy
from nnunet_ssl.losses.weighted import weighted_supervised
from nnunet_ssl.memory.class_weights import ClassWeights
from nnunet_ssl.method import Labeled, Now, Unlabeled
from nnunet_ssl.methods.families import TwoNetworks
from nnunet_ssl.networks.architecture import Architecture
from nnunet_ssl.networks.average import Average
from nnunet_ssl.networks.net import Net, Output
from nnunet_ssl.task import Target


class AveragedPair(TwoNetworks):
    """Two networks of one architecture that see the same patches; the mean of their logits predicts."""

    @classmethod
    def model(cls, architecture: Architecture) -> nn.Module:
        return Average(architecture(), architecture())

    def both(self, net: Net, labeled: Labeled, unlabeled: Unlabeled) -> tuple[Output, Output, list[int]]:
        """What A and B say of [x_l; x_u], and how many patches x_l and x_u have."""
        images = torch.cat((labeled.image, unlabeled.weak))
        return net(images), self.second(images), [len(labeled.image), len(unlabeled.weak)]

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
