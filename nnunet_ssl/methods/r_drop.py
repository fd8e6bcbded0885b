"""Regularized Dropout (R-Drop).

X. Liang et al., "R-Drop: Regularized Dropout for Neural Networks", NeurIPS 2021.

    z1, z2        logits of two passes of one network on [x_l; x_u], with dropout drawn afresh
    P = softmax z1,  Q = softmax z2

    L = 1/2 [L_sup(z1_l, y) + L_sup(z2_l, y)] + w(r) mean 1/2 [KL(P || Q) + KL(Q || P)]

KL sums over classes, the mean runs over the unlabeled patches and their voxels, at full resolution. One forward of the
batch beside itself makes both passes. Dropout is of whole feature channels at two places, in training only. For regions
the divergence is binary per channel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nnunet_ssl.losses.divergence import symmetric_kl
from nnunet_ssl.method import Labeled, Now, Unlabeled, check_range
from nnunet_ssl.methods.families import RampedMethod
from nnunet_ssl.networks.architecture import Architecture
from nnunet_ssl.networks.dropout import add_dropout
from nnunet_ssl.networks.net import Net, Output

PATIENCE = 100  # a small network may drop nothing in a step, but not so often


class RDrop(RampedMethod):
    """Makes two passes with different dropout predict the same.

    Args:
        weight: lambda, weight of the divergence at the end of the ramp-up.
        dropout: probability with which a feature channel is dropped in training.
        labeled_too: take the divergence over labeled patches as well, voxels with the ignore label among them.
        class_mean: divide the divergence by the number of classes; by 2 for regions, which are inside or outside.
        ramped: see `RampedMethod`.

    Raises:
        ValueError: a value is out of range.
    """

    presets = {
        "published": {"dropout": 0.2, "weight": 4.0, "class_mean": True},
        "official": {"dropout": 0.2, "weight": 0.3, "rampup": 0.0, "labeled_too": True},
    }

    def __init__(
        self,
        weight: float = 1.0,
        dropout: float = 0.02,
        labeled_too: bool = False,
        class_mean: bool = False,
        **ramped: Any,
    ):
        super().__init__(weight, **ramped)
        check_range("dropout", dropout, 0, 0.99)
        if dropout == 0:
            raise ValueError("dropout = 0 makes both passes equal: R-Drop would be nothing but supervised training")
        self.dropout = dropout
        self.labeled_too = labeled_too
        self.class_mean = class_mean
        self.acts, self.equal_steps = False, 0  # whether two passes were seen to differ, and how often they did not

    def setup(self, net: Net, new_net: Architecture) -> None:
        add_dropout(net.module, self.dropout)

    def losses(self, net: Net, labeled: Labeled, unlabeled: Unlabeled, now: Now) -> dict[str, Tensor]:
        sizes = [len(labeled.image), len(unlabeled.weak)]
        images = torch.cat((labeled.image, unlabeled.weak))
        first, second = net(images, images)
        self.watch_dropout(net, first, second)
        (seg1, free1), (seg2, free2) = first.split(sizes), second.split(sizes)
        pair = (first, second) if self.labeled_too else (free1, free2)
        return {
            "supervised": (self.supervised(seg1, labeled.target) + self.supervised(seg2, labeled.target)) / 2,
            "divergence": self.ramped_weight(now) * self.divergence(*pair),
        }

    def watch_dropout(self, net: Net, first: Output, second: Output) -> None:
        """Raises RuntimeError when both passes have been equal in each of the first `PATIENCE` steps."""
        if self.acts:
            return
        if not torch.equal(first.logits, second.logits):
            self.acts = True
        elif varies(first.logits):
            self.equal_steps += 1
            if self.equal_steps == PATIENCE:
                name = type(net.module).__name__
                raise RuntimeError(f"Both passes of {name} were equal in {PATIENCE} steps: its dropout does not act.")

    def divergence(self, first: Output, second: Output) -> Tensor:
        """Symmetric KL between two passes, a scalar."""
        mean = symmetric_kl(first, second).mean()
        return mean / first.kind.outcomes if self.class_mean else mean


def varies(logits: Tensor) -> bool:
    """Whether (B, C, *spatial) differs between voxels: not so of blank patches, which dropout leaves as they are."""
    voxels = logits.flatten(2)
    return bool((voxels != voxels[..., :1]).any())
