"""Cross Pseudo Supervision (CPS).

X. Chen, Y. Yuan, G. Zeng, J. Wang, "Semi-Supervised Semantic Segmentation with Cross Pseudo Supervision", CVPR 2021.

    f1, f2        two networks of the plan's architecture, from different random draws, both trained
    y1 = argmax f1(x_u),  y2 = argmax f2(x_u)                                 without gradient

    L = L_sup(f1(x_l), y) + L_sup(f2(x_l), y) + w(r) [CE(f1(x_u), y2) + CE(f2(x_u), y1)]

CE is the mean over all voxels at full resolution, background included, without a threshold. For regions y = [f > 0] per
channel and CE is binary. Network 1 predicts.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nnunet_ssl.losses.cross_entropy import cross_entropy
from nnunet_ssl.method import Labeled, Now, Unlabeled
from nnunet_ssl.methods.families import TwoNetworks
from nnunet_ssl.networks.net import Net, Output


class CPS(TwoNetworks):
    """Two networks that teach each other with hard pseudo-labels.

    Args:
        labeled_too: draw the cross term from labeled patches as well.
        ramped: see `RampedMethod`.

    Raises:
        ValueError: a value is out of range.
    """

    presets = {"published": {"weight": 0.2}, "official": {"weight": 1.5, "rampup": 0.0, "labeled_too": True}}

    def __init__(self, labeled_too: bool = False, **ramped: Any):
        super().__init__(**ramped)
        self.labeled_too = labeled_too

    def losses(self, net: Net, labeled: Labeled, unlabeled: Unlabeled, now: Now) -> dict[str, Tensor]:
        first, second, sizes = self.both(net, labeled, unlabeled)
        (seg1, cross1), (seg2, cross2) = first.split(sizes), second.split(sizes)
        if self.labeled_too:
            cross1, cross2 = first, second
        return {
            "supervised": self.supervised(seg1, labeled.target),
            "supervised_twin": self.supervised(seg2, labeled.target),
            "cross": self.ramped_weight(now) * self.cross(cross1, cross2),
        }

    def cross(self, first: Output, second: Output) -> Tensor:
        """CE(f1, y2) + CE(f2, y1)."""
        y1, y2 = self.pseudo_labels(first, second)
        return cross_entropy(first, y2) + cross_entropy(second, y1)
