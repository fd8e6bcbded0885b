"""What a method gains over the baseline, case by case."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nnunet_ssl.report.significance import bootstrap_interval, signed_rank

METRICS = ("dice", "hd95_mm", "asd_mm")
MORE_IS_BETTER = {"dice"}  # of distances less is

CaseValues = Mapping[str, float | None]


def differences(metric: str, method: CaseValues, baseline: CaseValues) -> dict[str, Any]:
    """Method minus baseline for the cases where both have a value.

    Returns:
        `per_case` (case -> difference), `n`, `mean` and `interval` (95 %, over cases; None for fewer than two cases),
        `p` of Wilcoxon's signed-rank test and whether it is `exact`, `better` and `worse` (cases, the largest
        difference first); `mean` and `p` are None without a case.
    """
    per_case = {
        case: value - baseline[case]
        for case, value in method.items()
        if value is not None and baseline[case] is not None
    }
    values = list(per_case.values())
    test = signed_rank(values)
    interval = bootstrap_interval(values)
    by_size = sorted((case for case in per_case if per_case[case]), key=lambda case: -abs(per_case[case]))
    gains = {case: (per_case[case] > 0) == (metric in MORE_IS_BETTER) for case in by_size}
    return {
        "n": len(values),
        "mean": float(np.mean(values)) if values else None,
        "interval": None if interval is None else list(interval),
        "p": test.p if values else None,
        "exact": test.exact,
        "better": [case for case, gain in gains.items() if gain],
        "worse": [case for case, gain in gains.items() if not gain],
        "per_case": per_case,
    }


def case_means(per_case: Mapping[str, CaseValues]) -> dict[str, float | None]:
    """By case the mean over the classes that have a value there; None where none has."""
    present = {case: [v for v in values.values() if v is not None] for case, values in per_case.items()}
    return {case: float(np.mean(values)) if values else None for case, values in present.items()}
