"""Two networks trained side by side: what co-training methods share."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from nnunet_ssl.method import RampedMethod
from nnunet_ssl.networks.net import Net


class TwoNetworks(RampedMethod):
    """Adds a twin of the plan's architecture with its own random weights; `second` is the twin as methods use it."""

    def setup(self, net: Net, new_net: Callable[[], nn.Module]) -> None:
        self.twin = new_net()
        self.second = net.alike(self.twin)
