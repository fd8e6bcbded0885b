"""Thresholds of classes that follow the predictions, from histograms of these."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nnunet_ssl.distributed import sum_over_ranks
from nnunet_ssl.kinds import Kind, on_channels
from nnunet_ssl.networks.net import Output

BINS = 1000  # between 0 and 1: thresholds are exact to 1e-3


class AdaptiveThresholds(nn.Module):
    """One share of the pseudo-labels of each class passes: that of the majority class which passes tau_1.

        C_k    confidences of the pseudo-labels of class k since the last `refresh`, n_k of them
        rho    share of C_k that are at least tau_1, k = argmax n; at least 1e-3
        tau_k  the ceil(rho n_k)-th largest of C_k, at least that of a guess (1/C) and at most tau_1;
               as it was where n_k = 0, and 0 before the first `refresh`

    Of regions inside and outside are classes each, all of them together (E,) = (2 C,), and a guess has 1/2. All ranks
    have the same.

    Args:
        kind: classes or regions.
        majority: tau_1.
        entries: E.

    Attributes:
        thresholds: tau, (E,).
        histogram: of C_k in bins, lowest first, (E, BINS), in float64, which counts exactly.
    """

    thresholds: Tensor
    histogram: Tensor

    def __init__(self, kind: Kind, majority: float, entries: int | None = None):
        super().__init__()
        self.kind = kind
        self.majority = majority
        entries = kind.all_outcomes if entries is None else entries
        self.register_buffer("thresholds", torch.zeros(entries))
        self.register_buffer("histogram", torch.zeros(entries, BINS, dtype=torch.float64))

    def admitted(self, output: Output) -> Tensor:
        """Where the confidence of a prediction is at least the threshold of its label, a bool voxel map."""
        return output.confidence >= self.thresholds[self.kind.outcome_of(output.hard)]

    @torch.no_grad()
    def record(self, output: Output) -> None:
        """Takes a prediction for this rank's unlabeled patches."""
        self.histogram += counted(output.confidence, self.kind.outcome_of(output.hard), len(self.histogram))

    @torch.no_grad()
    def refresh(self) -> None:
        """tau from the histogram, which begins anew."""
        n = self.histogram.sum(1)
        kept = (self.rho(n).clamp_min(1e-3) * n - 1e-6).ceil().clamp_min(1)
        found = (self.bin_of(kept) / BINS).clamp_min(1 / self.kind.outcomes).clamp_max(self.majority)
        self.thresholds.copy_(torch.where(n > 0, found, self.thresholds))
        self.histogram.zero_()

    def rho(self, n: Tensor) -> Tensor:
        """Of the class with the largest n, the values that are at least tau_1, over n; a tensor (1,)."""
        passing = at_least(self.histogram)[:, min(round(self.majority * BINS), BINS - 1)]
        most = n.argmax().view(1)
        return passing.gather(0, most) / n.gather(0, most).clamp_min(1)

    def bin_of(self, place: Tensor) -> Tensor:
        """The bin in which the largest, second largest ... value of each class lies, (E,); -1 where there is none."""
        return (at_least(self.histogram) >= place[:, None]).sum(1) - 1


class ScoreThresholds(AdaptiveThresholds):
    """As the code of DHC has them: of each class's probability at all voxels, whatever their label.

        n_k    voxels with the label k
        rho    voxels with p_k > tau_1 for the majority class, over their n_k
        tau_k  the (int(rho n_k) + 1)-th largest of p_k over all voxels, which itself does not pass

    Args, attributes: see `AdaptiveThresholds`; each region has one threshold, (E,) = (C,).
        labels: n, (C,).
    """

    labels: Tensor

    def __init__(self, kind: Kind, majority: float):
        super().__init__(kind, majority, kind.channels)
        self.register_buffer("labels", torch.zeros(kind.channels, dtype=torch.float64))

    def admitted(self, output: Output) -> Tensor:
        """Where the probability of each class lies above its threshold, bool (B, C, *spatial)."""
        probs = output.probs.detach()
        return probs > on_channels(self.thresholds, probs.ndim)

    @torch.no_grad()
    def record(self, output: Output) -> None:
        probs = output.probs.detach()
        channels = on_channels(torch.arange(self.kind.channels, device=probs.device), probs.ndim).expand_as(probs)
        self.histogram += counted(probs, channels, len(self.histogram))
        sound = self.kind.spread(probs.isfinite().all(1))
        self.labels += sum_over_ranks(self.kind.count(output.hard, sound).double())

    @torch.no_grad()
    def refresh(self) -> None:
        place = (self.rho(self.labels) * self.labels + 1e-6).floor() + 1
        found = (self.bin_of(place) + 1) / BINS
        self.thresholds.copy_(torch.where(self.histogram.sum(1) > 0, found, self.thresholds))
        self.histogram.zero_()
        self.labels.zero_()


def counted(values: Tensor, classes: Tensor, number: int) -> Tensor:
    """Histogram of values between 0 and 1 of each class, over all ranks, (number, BINS); NaN is left out.

    Args:
        values: of any shape.
        classes: the class of each, from 0.
    """
    bins = (values * BINS).clamp_max(BINS - 1).nan_to_num(0).floor() + BINS * classes
    place = torch.where(values.isfinite(), bins.double(), -1)
    size = number * BINS
    return sum_over_ranks(torch.histc(place, size, -0.5, size - 0.5)).view(number, BINS)


def at_least(histogram: Tensor) -> Tensor:
    """How many values lie in a bin or above it, (E, BINS)."""
    return histogram.flip(1).cumsum(1).flip(1)
