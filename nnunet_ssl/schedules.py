"""Schedules as pure functions of the fraction of training done, so that they survive a resume and any length."""

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


def phase_of(epoch: int, starts: Sequence[int]) -> int:
    """The phase that an epoch belongs to, when phase k begins with the epoch `starts[k - 1]`."""
    return bisect.bisect_right(starts, epoch)


def epoch_of_schedule(epoch: int, starts: Sequence[int], epochs: int) -> float:
    """Where a schedule over all of training stands when each phase runs through the whole of it, in epochs.

    Args:
        epoch: 0-based.
        starts: first epoch of phase 1, 2, ..., ascending.
        epochs: length of training.
    """
    bounds = [0, *starts, epochs]
    phase = phase_of(epoch, starts)
    return (epoch - bounds[phase]) / (bounds[phase + 1] - bounds[phase]) * epochs


class Restarted:
    """nnU-Net's schedule of the learning rate, run through as a whole in each phase.

    Args:
        scheduler: nnU-Net's, for all of training.
        starts, epochs: see `epoch_of_schedule`.
    """

    def __init__(self, scheduler: LRScheduler, starts: Sequence[int], epochs: int):
        self.scheduler, self.starts, self.epochs = scheduler, starts, epochs

    def step(self, epoch: int) -> None:
        """Sets the learning rate of an epoch."""
        self.scheduler.step(epoch_of_schedule(epoch, self.starts, self.epochs))


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
