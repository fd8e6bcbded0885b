"""Schedules as pure functions of the fraction of training done, so that they survive a resume and any length."""

import math


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
