"""Two networks that teach each other and predict as one."""

from __future__ import annotations

import torch
from torch import nn

from nnunet_ssl.method import Labeled, Unlabeled
from nnunet_ssl.methods.families import TwoNetworks
from nnunet_ssl.networks.architecture import Architecture
from nnunet_ssl.networks.average import Average
from nnunet_ssl.networks.net import Net, Output


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
