"""Rotation consistency: what SSL4MIS calls "deep co-training".

X. Luo, "SSL4MIS", github.com/HiLab-git/SSL4MIS, 2020, train_deep_co_training_2D.py.

    R             turn of a patch by k quarter turns in a plane, k uniform in 1..4 (4: none), one k per step
    p = softmax f(x_u),  q = softmax f(R x_u)

    L = L_sup(f(x_l), y) + w(r) 1/2 [mean (sg q - R p)^2 + mean (q - R sg p)^2],  sg: without gradient

The means run over patches, classes and voxels, at full resolution; one forward serves x_l, x_u and R x_u. The value is
that of the plain squared difference, its gradient the half. Without dropout a step with k = 4 adds nothing. The plane
is the last pair of axes along which nnU-Net mirrors and that have equal patch length and spacing, because a turn is a
mirroring along both and their exchange. If there is none, the last pair of mirrored axes is turned by half turns only,
k in {2, 4}.
"""

from __future__ import annotations

import math
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional as F

from nnunet_ssl.method import Labeled, Now, Unlabeled
from nnunet_ssl.methods.families import RampedMethod
from nnunet_ssl.networks.architecture import Architecture
from nnunet_ssl.networks.net import Net, Output
from nnunet_ssl.task import Task


class RotConsistency(RampedMethod):
    """Makes the prediction of a turned patch equal the turned prediction.

    Args:
        ramped: see `RampedMethod`.

    Raises:
        ValueError: a value is out of range.
    """

    presets = {"published": {"weight": 0.2}}

    def setup(self, net: Net, new_net: Architecture) -> None:
        self.plane, self.smallest = plane_of_turns(self.task)

    def losses(self, net: Net, labeled: Labeled, unlabeled: Unlabeled, now: Now) -> dict[str, Tensor]:
        k = self.smallest * int(torch.randint(1, 4 // self.smallest + 1, ()))
        turned = torch.rot90(unlabeled.weak, k, self.plane)
        seg, output, output_of_turned = net(labeled.image, unlabeled.weak, turned)
        return {
            "supervised": self.supervised(seg, labeled.target),
            "consistency": self.ramped_weight(now) * self.consistency(output, output_of_turned, k),
        }

    def consistency(self, output: Output, output_of_turned: Output, k: int) -> Tensor:
        """Half the sum of the mean squared differences, each with a gradient to one of the two predictions."""
        p, q = torch.rot90(output.probs, k, self.plane), output_of_turned.probs
        return (F.mse_loss(p, q.detach()) + F.mse_loss(q, p.detach())) / 2


def plane_of_turns(task: Task) -> tuple[tuple[int, int], int]:
    """Two axes of a batch (B, C, *spatial) and the smallest turn that is allowed there, in quarter turns: 1 or 2.

    Raises:
        NotImplementedError: nnU-Net mirrors along fewer than two axes.
    """
    planes = list(combinations(sorted(task.mirror_axes), 2))
    if not planes:
        raise NotImplementedError(
            "RotConsistency turns patches in a plane of two axes along which nnU-Net mirrors; it mirrors along "
            f"{len(task.mirror_axes)} of {len(task.patch_size)}. Take a trainer with mirroring or another method."
        )
    square = [
        (a, b)
        for a, b in planes
        if task.patch_size[a] == task.patch_size[b] and math.isclose(task.spacing[a], task.spacing[b], rel_tol=1e-3)
    ]
    a, b = (square or planes)[-1]
    return (a + 2, b + 2), 1 if square else 2
