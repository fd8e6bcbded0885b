"""Schedules as pure functions of the fraction of training done, so that they survive a resume and any length."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

from torch.optim.lr_scheduler import LRScheduler


def gaussian_rampup(fraction: float, length: float = 1.0) -> float:
    """Ramp-up from exp(-5) = 0.0067 at 0 to 1 at `length`: exp(-5 (1 - fraction / length)^2), 1 from there on.

    Args:
        fraction: fraction of training done.
        length: where the ramp-up ends, as a fraction of training; 0 for none.

    Source: Laine and Aila, "Temporal Ensembling", ICLR 2017; used by Mean Teacher and all its descendants.
    """
    if fraction >= length:
        return 1.0
    return math.exp(-5.0 * (1.0 - max(fraction, 0.0) / length) ** 2)


def ema_decay(step: int, limit: float) -> float:
    """Decay of an exponential moving average at a 0-based step: min(1 - 1 / (step + 1), limit).

    The average is the true mean of all steps until `limit` is reached; step 0 copies.
    Source: Tarvainen and Valpola, "Mean teachers are better role models", NeurIPS 2017 (their code).
    """
    return min(1.0 - 1.0 / (step + 1), limit)


def reversal_coefficient(fraction: float, length: float, limit: float) -> float:
    """Of a reversed gradient: from 0 at 0 towards `limit`, limit (2 / (1 + exp(-fraction / length)) - 1).

    Args:
        fraction: fraction of training done.
        length: unit of time, as a fraction of training: there it has 0.46 of the limit; 0 for a constant limit.
        limit: what it tends to.

    Source: Ganin et al., "Domain-Adversarial Training of Neural Networks", JMLR 2016, with the values of Chen et al.,
    "Debiased Self-Training for Semi-Supervised Learning", NeurIPS 2022 (their code).
    """
    return limit * math.tanh(fraction / (2 * length)) if length else limit


class Phases:
    """The parts of a training, each of which nnU-Net's learning rate runs through as a whole.

    Args:
        starts: first epoch of phase 1, 2, ..., ascending; phase 0 begins with the training.
        epochs: length of training.
    """

    def __init__(self, starts: Sequence[int], epochs: int):
        self.starts = list(starts)
        self.epochs = epochs

    @classmethod
    def at(cls, fractions: Sequence[float], epochs: int) -> Phases:
        """Those that begin at fractions of training: never with the first epoch, nor after the last."""
        starts = {max(1, round(fraction * epochs)) for fraction in fractions}
        return cls(sorted(epoch for epoch in starts if epoch < epochs), epochs)

    def of(self, epoch: int) -> int:
        """The phase that an epoch belongs to."""
        return bisect.bisect_right(self.starts, epoch)

    def begin_with(self, epoch: int) -> bool:
        """Whether an epoch is the first of a phase other than phase 0."""
        return epoch in self.starts

    def epoch_of_schedule(self, epoch: int) -> float:
        """Where a schedule for all of training stands when each phase runs through the whole of it, in epochs."""
        bounds = [0, *self.starts, self.epochs]
        phase = self.of(epoch)
        return (epoch - bounds[phase]) / (bounds[phase + 1] - bounds[phase]) * self.epochs


class Restarted:
    """nnU-Net's schedule of the learning rate, run through as a whole in each phase.

    Args:
        scheduler: nnU-Net's, for all of training.
        phases: of the training.
    """

    def __init__(self, scheduler: LRScheduler, phases: Phases):
        self.scheduler, self.phases = scheduler, phases

    def step(self, epoch: int) -> None:
        """Sets the learning rate of an epoch."""
        self.scheduler.step(self.phases.epoch_of_schedule(epoch))


def polynomial_decay(fraction: float, warmup: float = 0.0) -> float:
    """Factor of a learning rate: linear from 0 to 1 until `warmup`, then (1 - (r - warmup) / (1 - warmup))^0.9.

    Args:
        fraction: r, fraction of training done.
        warmup: length of the warm-up as a fraction of training.

    Source: nnU-Net's schedules for U-Nets and, with warm-up, for transformers.
    """
    if fraction < warmup:
        return fraction / warmup
    return max(0.0, 1.0 - (fraction - warmup) / (1.0 - warmup)) ** 0.9
