"""Mutual Correction Framework (MCF).

Y. Wang, B. Xiao, X. Bi, W. Li, X. Gao, "MCF: Mutual Correction Framework for Semi-Supervised Medical Image
Segmentation", CVPR 2023.

    A, B          the plan's network, and one with residual blocks (plain ones, if the plan's is residual)
    p_n           softmax n([x_l; x_u]),  n = A, B
    D             voxels of x_l where argmax p_A and argmax p_B differ
    R_n           sum D (p_n - y)^2 / sum D, mean over foreground classes         the review of likely errors
    good, bad     the network with the smaller, the larger mean Dice loss of foreground classes on x_l
    P             p_good^(1/T) / sum_k p_k^(1/T) on x_u, without gradient

    L = sum_n [L_sup(n(x_l), y) + rho_R R_n] + w(r) mean (p_bad - P)^2

Only the network that is worse at the moment learns from the unlabeled patches. All but L_sup is at full resolution;
ignored voxels count in none of it. For regions D, R and P are per region and the Dice is that of regions. Both networks
predict: the mean of their logits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nnunet_ssl.distributed import mean_over_ranks, sum_over_ranks
from nnunet_ssl.losses.sharpening import sharpened
from nnunet_ssl.method import Labeled, Now, Unlabeled, check_range
from nnunet_ssl.methods.families import AveragedPair
from nnunet_ssl.networks.architecture import Architecture
from nnunet_ssl.networks.average import Average
from nnunet_ssl.networks.net import Net, Output
from nnunet_ssl.task import Target


class MCF(AveragedPair):
    """Two networks of different form; where they differ labels count more, and the worse learns from the better.

    Args:
        review: rho_R, weight of the squared error where the networks differ.
        temperature: T, of the better network's pseudo-labels.
        ramped: see `RampedMethod`.

    Raises:
        ValueError: a value is out of range.
    """

    def __init__(self, review: float = 0.5, temperature: float = 0.1, **ramped: Any):
        super().__init__(**ramped)
        check_range("review", review, 0)
        check_range("temperature", temperature, 1e-3, 1)
        self.review = review
        self.temperature = temperature

    @classmethod
    def model(cls, architecture: Architecture) -> nn.Module:
        return Average(architecture(), architecture.of_another_form()())

    def setup(self, net: Net, new_net: Architecture) -> None:
        self.twin = new_net.of_another_form()()
        self.second = net.alike(self.twin)

    def losses(self, net: Net, labeled: Labeled, unlabeled: Unlabeled, now: Now) -> dict[str, Tensor]:
        (seg_a, free_a), (seg_b, free_b) = (each(labeled.image, unlabeled.weak) for each in (net, self.second))
        y, annotated = self.foreground(labeled.target)
        p_a, p_b = (seg.probs[:, seg.kind.background :] for seg in (seg_a, seg_b))
        review_a, review_b = self.reviews(p_a, p_b, y, annotated & self.differ(seg_a, seg_b))
        a_is_good = (self.dice_loss(p_a, y, annotated) < self.dice_loss(p_b, y, annotated)).float()
        self.report["first_is_better"] = a_is_good
        learns_a = (1 - a_is_good) * self.distance(free_a, free_b)
        learns_b = a_is_good * self.distance(free_b, free_a)
        return {
            "supervised": self.supervised(seg_a, labeled.target),
            "supervised_twin": self.supervised(seg_b, labeled.target),
            "review": self.review * (review_a + review_b),
            "consistency": self.ramped_weight(now) * (learns_a + learns_b),
        }

    def foreground(self, target: Target) -> tuple[Tensor, Tensor]:
        """y of the foreground channels as 0/1, (B, K, *spatial), and the annotated voxels, (B, 1, *spatial)."""
        y = target.kind.masks(target.labels, target.kind.background)
        return y.float(), target.where_annotated(torch.ones_like(y[:, :1]))

    def differ(self, first: Output, second: Output) -> Tensor:
        """D, (B, 1, *spatial), or per region (B, C, *spatial)."""
        return first.kind.as_channels(first.hard != second.hard)

    def reviews(self, p_a: Tensor, p_b: Tensor, y: Tensor, differ: Tensor) -> tuple[Tensor, Tensor]:
        """R_A and R_B; 0 where the networks differ nowhere."""
        count = mean_over_ranks((differ * torch.ones_like(y)).sum()).clamp_min(1e-8)
        review_a, review_b = ((differ * (p - y).square()).sum() / count for p in (p_a, p_b))
        return review_a, review_b

    @torch.no_grad()
    def dice_loss(self, p: Tensor, y: Tensor, annotated: Tensor) -> Tensor:
        """1 - the mean Dice of the foreground channels that the labeled batch of all ranks has."""
        p, y, axes = p * annotated, y * annotated, (0, *range(2, p.ndim))
        sums = sum_over_ranks(torch.stack([(p * y).sum(axes), p.square().sum(axes), y.sum(axes)]))
        overlap, squares, size = sums
        dice, present = (2 * overlap + 1e-5) / (squares + size + 1e-5), size > 0
        return 1 - (dice * present).sum() / present.sum().clamp_min(1)

    def distance(self, learner: Output, teacher: Output) -> Tensor:
        """mean (p_bad - P)^2."""
        return (learner.probs - sharpened(teacher, self.temperature).detach()).square().mean()
