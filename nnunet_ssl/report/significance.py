"""Is a method better than the baseline on the test cases: a paired test, and its correction for several methods."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import wilcoxon

LEVEL = 0.05


def paired_p(method: Sequence[float], baseline: Sequence[float]) -> float:
    """p of Wilcoxon's signed-rank test, two-sided, on the differences of paired values; 1 if there are none.

    Args:
        method: one value per case.
        baseline: those of the same cases, in the same order.
    """
    differences = np.subtract(method, baseline)
    return float(wilcoxon(differences).pvalue) if differences.any() else 1.0


def smallest_p(n: int) -> float:
    """The p of `n` pairs that all differ in one direction: no outcome has a smaller one."""
    return min(1.0, 2 / 2**n)


def holm(values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm, Scandinavian Journal of Statistics 1979), in the order given.

    The chance that any of the methods is called different while none is stays below the level.
    """
    corrected, largest = [0.0] * len(values), 0.0
    for rank, index in enumerate(np.argsort(values, kind="stable")):
        largest = max(largest, min(1.0, (len(values) - rank) * values[index]))
        corrected[index] = largest
    return corrected
