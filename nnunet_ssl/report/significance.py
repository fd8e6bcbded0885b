"""Is a method better than the baseline on the test cases: a paired test, its correction, and an interval."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import permutation_test, rankdata, wilcoxon

LEVEL = 0.05
CONFIDENCE = 0.95
RESAMPLES, SEED = 10_000, 0  # of the bootstrap
DIGITS = 12  # of a difference: what 0.9 - 0.8 and 0.5 - 0.4 have in common
MOST_EXACT, MOST_EXACT_WITH_TIES = 50, 13  # differences


class SignedRank(NamedTuple):
    """Outcome of the paired test: two-sided p, how many pairs differ, and whether p is exact or approximate."""

    p: float
    n: int
    exact: bool


def signed_rank(differences: Sequence[float]) -> SignedRank:
    """Wilcoxon's signed-rank test, two-sided, of paired differences against zero; p is 1 if there are none.

    Pairs without a difference are left out. The distribution is exact for up to 50 differences, 13 if some are of one
    size; for more it is the normal approximation.
    """
    d = np.round(np.asarray(differences, dtype=float), DIGITS)
    d = d[d != 0]
    if not len(d):
        return SignedRank(1.0, 0, True)
    ties = len(np.unique(np.abs(d))) < len(d)
    if not ties:
        exact = len(d) <= MOST_EXACT
        return SignedRank(float(wilcoxon(d, method="exact" if exact else "approx").pvalue), len(d), exact)
    if len(d) > MOST_EXACT_WITH_TIES:
        return SignedRank(float(wilcoxon(d, method="approx").pvalue), len(d), False)
    ranks = np.sign(d) * rankdata(np.abs(d))  # all signs, as the exact test has them
    outcome = permutation_test(
        (ranks,), lambda x, axis: x.sum(axis), permutation_type="samples", n_resamples=np.inf, vectorized=True
    )
    return SignedRank(float(outcome.pvalue), len(d), True)


def paired_p(method: Sequence[float], baseline: Sequence[float]) -> float:
    """p of :func:`signed_rank` on the differences of paired values.

    Args:
        method: one value per case.
        baseline: those of the same cases, in the same order.
    """
    return signed_rank(np.subtract(method, baseline)).p


def smallest_p(n: int) -> float:
    """The p of `n` pairs that all differ in one direction: no outcome has a smaller one."""
    return min(1.0, 2 / 2**n)


def bootstrap_interval(differences: Sequence[float]) -> tuple[float, float] | None:
    """Where the mean difference lies with 95 % confidence: percentiles of its means over cases drawn with replacement.

    Seeded, so the same differences have the same interval; None for fewer than two.
    """
    if len(differences) < 2:
        return None
    means = _resampled(len(differences)) @ np.asarray(differences, dtype=float)
    low, high = np.quantile(means, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return float(low), float(high)


@functools.lru_cache(maxsize=8)
def _resampled(n: int) -> np.ndarray:
    """The share `(RESAMPLES, n)` of each case in each draw of `n` cases."""
    return np.random.default_rng(SEED).multinomial(n, np.full(n, 1 / n), RESAMPLES) / n


def holm(values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm, Scandinavian Journal of Statistics 1979), in the order given.

    The chance that any of the methods is called different while none is stays below the level.
    """
    corrected, largest = [0.0] * len(values), 0.0
    for rank, index in enumerate(np.argsort(values, kind="stable")):
        largest = max(largest, min(1.0, (len(values) - rank) * values[index]))
        corrected[index] = largest
    return corrected
