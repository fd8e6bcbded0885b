"""Class weights that follow training: state in buffers, the same on every rank.

H. Wang and X. Li, "DHC: Dual-debiased Heterogeneous Co-training Framework", MICCAI 2023; formulas of their code, which
also weighs classes as it understands CReST (Wei et al., CVPR 2021) and SimiS (Chen et al., arXiv 2211.11086).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_ssl.distributed import sum_over_ranks
from nnunet_ssl.kinds import Kind
from nnunet_ssl.task import Target

EPS = 1e-8


class ClassWeights(nn.Module, ABC):
    """Weights of classes that a network has for its own losses."""

    def start(self, voxel_counts: Callable[[], Tensor]) -> None:
        """Before the first step: may take `Task.voxel_counts` of the labeled training cases."""

    @abstractmethod
    def update(self, on_labeled: Tensor, on_unlabeled: Tensor, target: Target) -> Tensor:
        """Takes what a network says of this rank's patches; returns w (C,).

        Args:
            on_labeled: hard labels for the labeled patches.
            on_unlabeled: hard labels for the unlabeled patches.
            target: what the labeled patches should be.
        """


class RelativeWeights(ClassWeights):
    """Weights of classes relative to the largest.

    The published code divides by the largest of all classes. A class that no label has can only be guessed, wrongly: it
    has the largest weight for good, up to four times that of any other. So the others are divided by their own largest,
    and it weighs as much as the one that has it. A checkpoint from before that goes on as it was trained.

    Args:
        classes: how many.
        skip_absent: see above; otherwise all classes count.
        other: arguments of a further base.

    Attributes:
        seen: the classes that count, (classes,).
    """

    seen: Tensor

    def __init__(self, classes: int, skip_absent: bool, **other: Any):
        super().__init__(**other)
        self.skip_absent = skip_absent
        self.register_buffer("seen", torch.ones(classes, dtype=torch.bool))

    def relative(self, value: Tensor) -> Tensor:
        """C value / its largest of the classes seen, at most C, (classes,)."""
        largest = torch.where(self.seen, value, 0).max()
        return (len(value) * value / largest.clamp_min(EPS)).clamp_max(len(value))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        state_dict.setdefault(f"{prefix}seen", torch.ones_like(self.seen))
        super()._load_from_state_dict(state_dict, prefix, *args)


class CountedWeights(ClassWeights):
    """Weights by the numbers N_k of voxels of the classes, averaged: w <- m w + (1 - m) w_now(N).

    The labeled training cases give the first, the pseudo-labels of unlabeled patches all others.

    Args:
        kind: classes, or regions: they have one entry more, for voxels in none, which takes the background's part.
        momentum: m.

    Attributes:
        average: w, (entries,).
    """

    average: Tensor

    def __init__(self, kind: Kind, momentum: float):
        super().__init__()
        self.kind = kind
        self.momentum = momentum
        self.register_buffer("average", torch.ones(kind.entries))

    @torch.no_grad()
    def start(self, voxel_counts: Callable[[], Tensor]) -> None:
        self.average.copy_(self.current(voxel_counts().to(self.average)))

    @torch.no_grad()
    def update(self, on_labeled: Tensor, on_unlabeled: Tensor, target: Target) -> Tensor:
        self.take(self.kind.count_entries(on_unlabeled))
        return self.average[: self.kind.channels].clone()

    def take(self, counts: Tensor) -> None:
        """Averages with w_now of this rank's counts (entries,)."""
        self.move_by(sum_over_ranks(counts.float()))

    def move_by(self, counts: Tensor) -> None:
        """Averages with w_now of the counts of all ranks, (entries,), float."""
        self.average.copy_(self.momentum * self.average + (1 - self.momentum) * self.current(counts))

    @abstractmethod
    def current(self, counts: Tensor) -> Tensor:
        """w_now of counts (entries,), float."""


class DifficultyWeights(RelativeWeights):
    """DiffDW: classes weigh more the slower their Dice on labeled patches rises, and the lower it is.

        lam_k  Dice of class k over the batch;  d_k = lam_k - lam_k(before);  r_k = ln(lam_k / lam_k(before))
        learned   <- m learned   + (1 - m) [d_k > 0]  d_k r_k
        unlearned <- m unlearned + (1 - m) [d_k <= 0] d_k r_k
        gap       <- m gap       + (1 - m) (1 - lam_k)
        w_k = C v_k / max v,  v_k = ((unlearned_k + 1e-8) / (learned_k + 1e-8))^alpha gap_k

    Args:
        kind: classes or regions, of which there are C.
        accumulation: tau; m = (tau - 1) / tau.
        alpha: exponent.
        skip_absent: leave the state of a class alone that is neither in the label nor in the prediction, and the
            classes that no label had so far out of max v. The published code takes 0.5 for its Dice instead, which
            swamps the signal where patches often miss a class.
    """

    dice: Tensor
    learned: Tensor
    unlearned: Tensor
    gap: Tensor

    def __init__(self, kind: Kind, accumulation: float = 50.0, alpha: float = 0.2, skip_absent: bool = True):
        channels = kind.channels
        super().__init__(channels, skip_absent)
        self.momentum = (accumulation - 1) / accumulation
        self.alpha = alpha
        self.seen.fill_(not skip_absent)
        self.register_buffer("dice", torch.full((channels,), EPS))
        self.register_buffer("learned", torch.zeros(channels))
        self.register_buffer("unlearned", torch.zeros(channels))
        self.register_buffer("gap", torch.ones(channels))

    @torch.no_grad()
    def update(self, on_labeled: Tensor, on_unlabeled: Tensor, target: Target) -> Tensor:
        overlap, predicted, labeled = sum_over_ranks(torch.stack(agreement(on_labeled, target)).float())
        size = predicted + labeled
        dice = (2 * overlap + EPS) / (size + 2 * EPS)
        change, ratio = dice - self.dice, (dice / self.dice).log()
        new = {
            "dice": dice,
            "learned": self._average(self.learned, torch.where(change > 0, change * ratio, 0)),
            "unlearned": self._average(self.unlearned, torch.where(change <= 0, change * ratio, 0)),
            "gap": self._average(self.gap, 1 - dice),
        }
        present = size > 0 if self.skip_absent else torch.ones_like(size, dtype=torch.bool)
        for name, value in new.items():
            buffer = getattr(self, name)
            buffer.copy_(torch.where(present, value, buffer))
        self.seen |= labeled > 0
        return self.weights()

    def _average(self, old: Tensor, new: Tensor) -> Tensor:
        return self.momentum * old + (1 - self.momentum) * new

    def weights(self) -> Tensor:
        """w, (C,)."""
        return self.relative(((self.unlearned + EPS) / (self.learned + EPS)) ** self.alpha * self.gap)


class AbsoluteDifficulty(DifficultyWeights):
    """w_k = C v_k of `DifficultyWeights`, which are not divided by their largest, as in GenericSSL.

    v is some hundredths as long as no class is unlearned. Classes that no label has so far have as much as the largest
    of the others, unless all count: their v would be 1.
    """

    def relative(self, value: Tensor) -> Tensor:
        """C value, at most that of the largest of the classes seen, (classes,)."""
        return len(value) * value.minimum(torch.where(self.seen, value, 0).max())


class DistributionWeights(RelativeWeights, CountedWeights):
    """DistDW: classes weigh more the rarer they are among the pseudo-labels.

        w_now = C ln P_k / max ln P,  P_k = max N / N_k

    Args:
        kind, momentum: as in `CountedWeights`.
        skip_absent: leave the classes that the labeled training cases lack out of max ln P, as the published code does
            not.
    """

    def __init__(self, kind: Kind, momentum: float = 0.99, skip_absent: bool = True):
        super().__init__(kind.entries, skip_absent, kind=kind, momentum=momentum)

    @torch.no_grad()
    def start(self, voxel_counts: Callable[[], Tensor]) -> None:
        counts = voxel_counts()
        if self.skip_absent:
            self.seen.copy_(counts > 0)
        super().start(lambda: counts)

    def current(self, counts: Tensor) -> Tensor:
        """w_now; the present average where all counts are equal and nothing can be told."""
        rarity = ((counts.max() + EPS) / (counts + EPS)).log()
        known = (rarity * self.seen).max() > 0
        return torch.where(known, self.relative(rarity), self.average)


class DifferenceWeights(CountedWeights):
    """SimiS in DHC's code: classes weigh more the further their share lies below that of the most frequent one.

        w_now = C (max P - P_k),  P_k = N_k / sum N

    N is of the labeled patches, too. w is C at first, and the labeled training cases enter it as a step does.

    Args:
        kind, momentum: as in `CountedWeights`.
        floor: no weight is given as less than C times this.
    """

    def __init__(self, kind: Kind, momentum: float = 0.99, floor: float = 0.0):
        super().__init__(kind, momentum)
        self.floor = floor
        self.average.fill_(kind.entries)

    @torch.no_grad()
    def start(self, voxel_counts: Callable[[], Tensor]) -> None:
        self.move_by(voxel_counts().to(self.average))

    @torch.no_grad()
    def update(self, on_labeled: Tensor, on_unlabeled: Tensor, target: Target) -> Tensor:
        counts = self.kind.count_entries
        self.take(counts(on_labeled, target.annotated) + counts(on_unlabeled))
        return self.average[: self.kind.channels].clamp_min(self.floor * self.kind.entries)

    def current(self, counts: Tensor) -> Tensor:
        share = (counts + EPS) / (counts.sum() + EPS)
        return len(counts) * (share.max() - share)


class ReversedWeights(CountedWeights):
    """CReST in DHC's code: w_now are the rates of `reversed_rates`, so that the rarest class weighs 1.

    Args:
        kind, momentum: as in `CountedWeights`.
        alpha: of the rates.
    """

    def __init__(self, kind: Kind, momentum: float = 0.99, alpha: float = 3.0):
        super().__init__(kind, momentum)
        self.alpha = alpha

    def current(self, counts: Tensor) -> Tensor:
        return reversed_rates(counts, self.alpha)


def reversed_rates(counts: Tensor, alpha: float) -> Tensor:
    """(N_{C+1-c} / N_1)^(1/alpha) of the c-th most frequent of C classes: 1 for the rarest, (C,) in the order given.

    Of classes that are equally frequent the first counts as more frequent.

    Args:
        counts: N, voxels of each class, (C,), float.
        alpha: the larger, the closer to 1.
    """
    if not len(counts):
        return counts
    rates = ((counts + EPS) / (counts.max() + EPS)) ** (1 / alpha)
    order = rates.argsort(descending=True, stable=True)
    return torch.empty_like(rates).index_copy_(0, order, rates[order.flip(0)])


def agreement(prediction: Tensor, target: Target) -> tuple[Tensor, Tensor, Tensor]:
    """True positives, predicted and labeled voxels of each channel over a batch, each (C,).

    Args:
        prediction: class numbers (B, *spatial), or regions 0/1 (B, C, *spatial).
        target: of the same patches; voxels that are not annotated do not count.
    """
    kind = target.kind
    counted = None if target.annotated is None else kind.spread(target.annotated)
    found = (kind.common(prediction, target.labels), prediction, target.labels)
    overlap, predicted, labeled = (kind.count(labels, counted) for labels in found)
    return overlap, predicted, labeled
