"""Dense-sparse co-training (DeSCO).

H. Cai, S. Li, L. Qi, Q. Yu, Y. Shi, Y. Gao, "Orthogonal Annotation Benefits Barely-supervised Medical Image
Segmentation", CVPR 2023. Labeled scans are annotated in two orthogonal slices, `nnunet_ssl propagate` carries both on.

    A, B          two networks of one architecture;  d_1, d_2  voxels to the annotated planes 1 and 2
    y_A           labels carried from plane 1, and those of plane 2 on it;  y_B the other way round
    w_A           alpha^d_1, and 1 on plane 2;  w_B = alpha^d_2, and 1 on plane 1;  0 outside of the scan
    alpha         0.95 in the first sixth of training, then (cos(pi k) + 1) / 2, k = 1/6, ..., 5/6 in steps of 1/40
    L_sup,n       (CE_w + Dice_w) / 2 of n(x_l), y_n,  Dice_w = 1 - 2 sum w p y / sum w (p^2 + y^2)
    H_n           entropy of the mean of T softmax n(x_u + noise),  tau = (3/4 + 1/4 exp(-5 (1 - r)^2)) ln C
    L_cross,A     mean CE(A(x_u), argmax B(x_u)) over voxels with H_B < tau, without gradient of B;  L_cross,B with A

    L = sum_n [(1 - lambda) L_sup,n + lambda L_cross,n],  lambda = w(r)

Labels count less and less the farther they were carried. L_sup is over all scales with nnU-Net's scale weights, L_cross
at full resolution; CE_w is divided by the sum of w in each patch. A fully labeled case has its labels for both networks
and w = 1. For regions H and tau are per region, with ln 2. Network A predicts.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnunet_ssl.augmentation.intensity import cut_noise
from nnunet_ssl.data.propagated import read_maps
from nnunet_ssl.errors import InputError
from nnunet_ssl.losses.dense_sparse import carried, dense_sparse, mean_per_patch
from nnunet_ssl.method import Labeled, Now, Unlabeled, check_range
from nnunet_ssl.methods.families import TwoNetworks
from nnunet_ssl.networks.net import Net, Output, mean_probs
from nnunet_ssl.schedules import gaussian_rampup


class DeSCO(TwoNetworks):
    """Two networks, each with labels carried from one of two slices, that teach each other on unlabeled patches.

    Args:
        passes: T, number of noisy passes of each network.
        noise: standard deviation of their noise, cut at twice of it.
        ramped: see `RampedMethod`.

    Raises:
        ValueError: a value is out of range.
    """

    def __init__(self, passes: int = 8, noise: float = 0.1, **ramped: Any):
        super().__init__(**ramped)
        check_range("passes", passes, 1)
        check_range("noise", noise, 0)
        check_range("weight", self.weight, 0, 1)
        self.passes = passes
        self.noise = noise

    def case_maps(self, case: str, segmentation: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
        """See `read_maps`; zeros for a case without ignored voxels.

        Raises:
            InputError: the configuration is 2D, or the case has ignored voxels and was not propagated.
        """
        if len(self.task.patch_size) == 2:
            raise InputError("DeSCO learns from two orthogonal slices, which no 2D patch shows: train 3d_fullres.")
        kind, ignore = self.task.kind, self.task.ignore_label
        if ignore is None or not (segmentation == ignore).any():
            return np.zeros((2 * (kind.channels - kind.background) + 3, *segmentation.shape), np.float32)
        return read_maps(self.task.labeled_folder, case, segmentation.shape)

    def losses(self, net: Net, labeled: Labeled, unlabeled: Unlabeled, now: Now) -> dict[str, Tensor]:
        a, b, sizes = self.both(net, labeled, unlabeled)
        (seg_a, free_a), (seg_b, free_b) = a.split(sizes), b.split(sizes)
        (y_a, w_a), (y_b, w_b) = carried(labeled, decay(now.fraction))
        weight = self.ramped_weight(now)
        cross_a = self.cross(free_a, free_b, self.certain(self.second, unlabeled.weak, now))
        cross_b = self.cross(free_b, free_a, self.certain(net, unlabeled.weak, now))
        return {
            "supervised": (1 - weight) * dense_sparse(seg_a, y_a, w_a, self.task),
            "supervised_twin": (1 - weight) * dense_sparse(seg_b, y_b, w_b, self.task),
            "cross": weight * (cross_a + cross_b),
        }

    @torch.no_grad()
    def certain(self, net: Net, image: Tensor, now: Now) -> Tensor:
        """H < tau, a bool voxel map."""
        mean = mean_probs(net.predict(cut_noise(image, self.noise)) for _ in range(self.passes))
        tau = (0.75 + 0.25 * gaussian_rampup(now.fraction)) * net.kind.max_entropy
        certain = net.kind.of_channels(net.kind.entropy(mean) < tau)
        self.report["certain_voxels"] = certain.float().mean()
        return certain

    def cross(self, learner: Output, teacher: Output, certain: Tensor) -> Tensor:
        """L_cross."""
        return mean_per_patch(learner.kind.cross_entropy(learner.logits, teacher.hard), certain.float())


def decay(fraction: float) -> float:
    """alpha, at a fraction of training done."""
    sixth = math.floor(6 * fraction + 1e-9)
    return 0.95 if sixth == 0 else 0.5 * (math.cos(math.pi * (40 * sixth // 6) / 40) + 1)
