"""Cross Teaching between CNN and Transformer (CTCT).

X. Luo, M. Hu, T. Song, G. Wang, S. Zhang, "Semi-Supervised Medical Image Segmentation via Cross Teaching between CNN
and Transformer", MIDL 2022.

    f1            the plan's network, which predicts
    f2            a transformer, which helps in training only
    p1 = softmax f1(x_u),  p2 = softmax f2(x_u)
    y1 = onehot argmax p1,  y2 = onehot argmax p2                             without gradient
    D(p, y) = 1 - mean_c (2 sum p_c y_c + s) / (sum p_c^2 + sum y_c^2 + s)    sums over the batch, background included

    L = L_sup(f1(x_l), y) + L_sup(f2(x_l), y) + w(r) [D(p1, y2) + D(p2, y1)]

The cross term is Dice alone, without cross-entropy and without a threshold; both networks see the same input. f2 has an
optimizer and a schedule of its own. For regions y = [f > 0].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nnunet_ssl.losses.dice import squared_dice
from nnunet_ssl.method import Labeled, Now, Unlabeled, check_range
from nnunet_ssl.methods.families import TwoNetworks
from nnunet_ssl.networks.architecture import Architecture
from nnunet_ssl.networks.net import Net, Output
from nnunet_ssl.networks.own_optimizer import OwnOptimizer
from nnunet_ssl.networks.transformer import token_sizes, transformer


class CrossTeaching(TwoNetworks):
    """The plan's network and a transformer that teach each other with hard pseudo-labels.

    Args:
        width: features of a token of the transformer; a multiple of 6 times `heads`.
        layers: number of transformer blocks.
        heads: of the attention.
        drop_path: probability with which the last block is skipped in training; falls linearly to 0 at the first.
        learning_rate: of the transformer's AdamW, after the warm-up.
        ramped: see `RampedMethod`.

    Raises:
        ValueError: a value is out of range.
    """

    presets = {"published": {"weight": 0.2}}

    def __init__(
        self,
        width: int = 396,
        layers: int = 12,
        heads: int = 6,
        drop_path: float = 0.2,
        learning_rate: float = 3e-4,
        **ramped: Any,
    ):
        super().__init__(**ramped)
        check_range("layers", layers, 1)
        check_range("heads", heads, 1)
        check_range("drop_path", drop_path, 0, 0.9)
        check_range("learning_rate", learning_rate, 0)
        if width < 1 or width % (6 * heads):
            raise ValueError(f"width = {width} is out of range: it must be a multiple of 6 * heads = {6 * heads}")
        self.sizes: dict[str, Any] = {"width": width, "layers": layers, "heads": heads, "drop_path": drop_path}
        self.learning_rate = learning_rate

    def setup(self, net: Net, new_net: Architecture) -> None:
        task, tokens = self.task, token_sizes(self.task.patch_size)
        if max(tokens) == 1:
            raise NotImplementedError(
                f"The transformer needs an even number of voxels on one axis of the patch, not {list(task.patch_size)}."
            )
        self.twin = transformer(task.image_channels, len(task.channels), task.patch_size, tokens, **self.sizes)
        self.second = net.alike(self.twin)
        adamw = torch.optim.AdamW(self.twin.parameters(), self.learning_rate, betas=(0.9, 0.98), weight_decay=5e-2)
        self.optimizer = OwnOptimizer(adamw, max_norm=1.0, warmup=0.05)

    def losses(self, net: Net, labeled: Labeled, unlabeled: Unlabeled, now: Now) -> dict[str, Tensor]:
        self.optimizer.follow(now.fraction)
        seg1, cross1 = net(labeled.image, unlabeled.weak)
        seg2, cross2 = self.second(labeled.image, unlabeled.weak)
        return {
            "supervised": self.supervised(seg1, labeled.target),
            "supervised_twin": self.supervised(seg2, labeled.target),
            "cross": self.ramped_weight(now) * self.cross(cross1, cross2),
        }

    def cross(self, first: Output, second: Output) -> Tensor:
        """D(p1, y2) + D(p2, y1)."""
        y1, y2 = self.pseudo_labels(first, second)
        y1, y2 = first.kind.masks(y1), first.kind.masks(y2)
        return squared_dice(first.probs, y2) + squared_dice(second.probs, y1)
