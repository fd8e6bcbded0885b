"""Class weights that follow training: state in buffers, the same on every rank.

H. Wang and X. Li, "DHC: Dual-debiased Heterogeneous Co-training Framework", MICCAI 2023; formulas of their code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nnunet_ssl.distributed import sum_over_ranks

EPS = 1e-8


class ClassWeights(nn.Module):
    """Weights of classes relative to the largest.

    The published code divides by the largest of all classes. A class that no label has can only be guessed, wrongly: it
    has the largest weight for good, up to four times that of any other. So the others are divided by their own largest,
    and it weighs as much as the one that has it. A checkpoint from before that goes on as it was trained.

    Args:
        classes: how many.
        skip_absent: see above; otherwise all classes count.

    Attributes:
        seen: the classes that count, (classes,).
    """

    def __init__(self, classes: int, skip_absent: bool):
        super().__init__()
        self.skip_absent = skip_absent
        self.register_buffer("seen", torch.ones(classes, dtype=torch.bool))

    def relative(self, value: Tensor) -> Tensor:
        """C value / its largest of the classes seen, at most C, (classes,)."""
        largest = torch.where(self.seen, value, 0).max()
        return (len(value) * value / largest.clamp_min(EPS)).clamp_max(len(value))

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        state_dict.setdefault(f"{prefix}seen", torch.ones_like(self.seen))
        super()._load_from_state_dict(state_dict, prefix, *args)


class DifficultyWeights(ClassWeights):
    """DiffDW: classes weigh more the slower their Dice on labeled patches rises, and the lower it is.

        lam_k  Dice of class k over the batch;  d_k = lam_k - lam_k(before);  r_k = ln(lam_k / lam_k(before))
        learned   <- m learned   + (1 - m) [d_k > 0]  d_k r_k
        unlearned <- m unlearned + (1 - m) [d_k <= 0] d_k r_k
        gap       <- m gap       + (1 - m) (1 - lam_k)
        w_k = C v_k / max v,  v_k = ((unlearned_k + 1e-8) / (learned_k + 1e-8))^alpha gap_k

    Args:
        channels: C.
        accumulation: tau; m = (tau - 1) / tau.
        alpha: exponent.
        skip_absent: leave the state of a class alone that is neither in the label nor in the prediction, and the
            classes that no label had so far out of max v. The published code takes 0.5 for its Dice instead, which
            swamps the signal where patches often miss a class.
    """

    def __init__(self, channels: int, accumulation: float = 50.0, alpha: float = 0.2, skip_absent: bool = True):
        super().__init__(channels, skip_absent)
        self.momentum = (accumulation - 1) / accumulation
        self.alpha = alpha
        self.seen.fill_(not skip_absent)
        self.register_buffer("dice", torch.full((channels,), EPS))
        self.register_buffer("learned", torch.zeros(channels))
        self.register_buffer("unlearned", torch.zeros(channels))
        self.register_buffer("gap", torch.ones(channels))

    @torch.no_grad()
    def update(self, overlap: Tensor, predicted: Tensor, labeled: Tensor) -> Tensor:
        """Takes what `agreement` finds in this rank's batch; returns w (C,)."""
        overlap, predicted, labeled = sum_over_ranks(torch.stack([overlap, predicted, labeled]).float())
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


class DistributionWeights(ClassWeights):
    """DistDW: classes weigh more the rarer they are among the pseudo-labels.

        N_k  voxels of class k;  w_now = C ln P_k / max ln P,  P_k = max N / N_k;  w <- m w + (1 - m) w_now

    Args:
        entries: number of counts that `update` takes.
        momentum: m.
        skip_absent: leave the classes that the labeled training cases lack out of max ln P, as the published code does
            not.
    """

    def __init__(self, entries: int, momentum: float = 0.99, skip_absent: bool = True):
        super().__init__(entries, skip_absent)
        self.momentum = momentum
        self.register_buffer("average", torch.ones(entries))

    @torch.no_grad()
    def start(self, counts: Tensor) -> None:
        """Starts from the voxel counts of the labeled training cases, (entries,), equal on all ranks."""
        if self.skip_absent:
            self.seen.copy_(counts > 0)
        self.average.copy_(self.current(counts.to(self.average)))

    @torch.no_grad()
    def update(self, counts: Tensor) -> Tensor:
        """Takes the counts of pseudo-labeled voxels in this rank's batch, (entries,); returns w, (entries,)."""
        current = self.current(sum_over_ranks(counts.float()))
        self.average.copy_(self.momentum * self.average + (1 - self.momentum) * current)
        return self.average.clone()

    def current(self, counts: Tensor) -> Tensor:
        """w_now; the present average where all counts are equal and nothing can be told."""
        rarity = ((counts.max() + EPS) / (counts + EPS)).log()
        known = (rarity * self.seen).max() > 0
        return torch.where(known, self.relative(rarity), self.average)


def agreement(
    prediction: Tensor, target: Tensor, channels: int, regions: bool, valid: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """True positives, predicted and labeled voxels of each channel over a batch, each (C,).

    Args:
        prediction: class numbers (B, *spatial), or regions 0/1 (B, C, *spatial).
        target: of the same shape.
        channels: C.
        regions: which of the two.
        valid: voxels that count, (B, *spatial); all when None.
    """
    if regions:
        prediction, target = prediction.bool(), target.bool()
        if valid is not None:
            prediction, target = prediction & valid[:, None], target & valid[:, None]
        axes = (0, *range(2, prediction.ndim))
        return (prediction & target).sum(axes), prediction.sum(axes), target.sum(axes)
    if valid is not None:
        prediction, target = (torch.where(valid, labels, -1) for labels in (prediction, target))
    overlap = _histogram(torch.where(prediction == target, target, -1), channels)
    return overlap, _histogram(prediction, channels), _histogram(target, channels)


def count_channels(prediction: Tensor, channels: int, regions: bool) -> Tensor:
    """Voxels of each channel over a batch, (C,); for regions, (C + 1,) with those in none as the last entry."""
    if not regions:
        return _histogram(prediction, channels)
    inside = prediction.bool()
    axes = (0, *range(2, inside.ndim))
    return torch.cat([inside.sum(axes), (~inside.any(1)).sum().view(1)])


def _histogram(labels: Tensor, channels: int) -> Tensor:
    """Voxels of each class number below `channels`, float64; others, such as -1, are left out. No copy to the host."""
    return torch.histc(labels.double(), channels, -0.5, channels - 0.5)
