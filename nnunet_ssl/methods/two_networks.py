"""Two networks trained side by side: what co-training methods share."""

from __future__ import annotations

from torch import Tensor

from nnunet_ssl.losses.cross_entropy import hard_labels
from nnunet_ssl.method import RampedMethod
from nnunet_ssl.networks.architecture import Architecture
from nnunet_ssl.networks.net import Net, Output


class TwoNetworks(RampedMethod):
    """Adds a twin of the plan's architecture with its own random weights; `second` is the twin as methods use it.

    Pretrained weights know it by the name `twin`.
    """

    def setup(self, net: Net, new_net: Architecture) -> None:
        self.twin = new_net()
        self.second = net.alike(self.twin)

    def pseudo_labels(self, first: Output, second: Output) -> tuple[Tensor, Tensor]:
        """y1 and y2, the hard labels of both networks; reports the share of voxels on which they agree."""
        y1, y2 = hard_labels(first), hard_labels(second)
        self.report["agreement"] = (y1 == y2).float().mean()
        return y1, y2
