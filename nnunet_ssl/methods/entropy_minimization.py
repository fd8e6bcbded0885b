"""Entropy Minimization.

Y. Grandvalet and Y. Bengio, "Semi-supervised Learning by Entropy Minimization", NeurIPS 2004; per voxel as in T.-H. Vu
et al., "ADVENT: Adversarial Entropy Minimization for Domain Adaptation in Semantic Segmentation", CVPR 2019 (MinEnt).

    p = softmax f([x_l; x_u])
    H = mean over patches and voxels of -sum_c p_c ln p_c / ln C
    L = L_sup(f(x_l), y) + w(r) H

H is 1 for a uniform and 0 for a certain prediction. For regions H is the binary entropy per channel over ln 2. Only the
ramp-up guards against the trivial optimum, one class everywhere.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nnunet_ssl.method import Labeled, Now, Unlabeled
from nnunet_ssl.methods.families import RampedMethod
from nnunet_ssl.networks.net import Net, Output


class EntropyMinimization(RampedMethod):
    """Makes predictions confident.

    Args:
        labeled_too: take the entropy over labeled patches as well, voxels with the ignore label among them.
        ramped: see `RampedMethod`.

    Raises:
        ValueError: a value is out of range.
    """

    presets = {"published": {"weight": 0.2}, "official": {"weight": 0.001, "rampup": 0.0, "labeled_too": False}}

    def __init__(self, labeled_too: bool = True, **ramped: Any):
        super().__init__(**ramped)
        self.labeled_too = labeled_too

    def losses(self, net: Net, labeled: Labeled, unlabeled: Unlabeled, now: Now) -> dict[str, Tensor]:
        seg, output = net(labeled.image, unlabeled.weak)
        uncertainty = normalized_entropy(output)
        if self.labeled_too:
            share = len(labeled.image) / (len(labeled.image) + len(unlabeled.weak))
            uncertainty = share * normalized_entropy(seg) + (1 - share) * uncertainty
        return {
            "supervised": self.supervised(seg, labeled.target),
            "entropy": self.ramped_weight(now) * uncertainty,
        }


def normalized_entropy(output: Output) -> Tensor:
    """H of one batch, a scalar in [0, 1]."""
    return output.kind.entropy_of_logits(output.logits).mean() / output.kind.max_entropy
