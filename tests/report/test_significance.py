"""The paired test and Holm's correction on numbers that were counted by hand, and beside scipy's own."""

import numpy as np
import pytest
from scipy.stats import PermutationMethod, bootstrap, wilcoxon

from nnunet_ssl.report.significance import bootstrap_interval, holm, paired_p, signed_rank, smallest_p


def test_wilcoxon_of_counted_subsets():
    zeros = [0.0] * 6
    assert paired_p([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], zeros) == pytest.approx(2 / 2**6)
    assert paired_p(zeros, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]) == pytest.approx(2 / 2**6)
    # the negative rank sum is 5, and 10 of the 32 subsets of the ranks 1..5 have a sum of at most 5
    assert paired_p([1, 2, 3, 4, -5], zeros[:5]) == pytest.approx(2 * 10 / 32)
    assert paired_p([0.5, 0.25], [0.5, 0.25]) == 1.0


def test_pairs_count_and_not_the_two_means():
    baseline = [0.1, 0.3, 0.5, 0.7, 0.9, 0.2]
    gained = [value + 0.001 * (rank + 1) for rank, value in enumerate(baseline)]
    assert paired_p(gained, baseline) == pytest.approx(2 / 2**6)
    assert paired_p(gained[::-1], baseline) > 0.5


def test_the_smallest_p_is_that_of_the_test():
    assert smallest_p(6) == paired_p([1, 2, 3, 4, 5, 6], [0] * 6)
    assert smallest_p(1) == smallest_p(0) == 1.0


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_the_test_is_scipys():
    rng = np.random.default_rng(1)
    few, many = rng.normal(0.3, 1, 20), rng.normal(0.1, 1, 80)
    assert signed_rank(few) == (wilcoxon(few, method="exact").pvalue, 20, True)
    assert signed_rank(many) == (wilcoxon(many, method="approx").pvalue, 80, False)
    ties = np.array([0.1, 0.1, -0.1, 0.2, 0.3, 0.3, 0.5])
    assert signed_rank(ties).p == pytest.approx(wilcoxon(ties, method=PermutationMethod()).pvalue)
    assert signed_rank(ties)[1:] == (7, True)
    assert signed_rank(np.repeat(few, 2)) == (wilcoxon(np.repeat(few, 2), method="approx").pvalue, 40, False)
    assert signed_rank([0.0, *few, 0.0]) == signed_rank(few)
    assert signed_rank([0.0, 0.0]) == (1.0, 0, True)


def test_ties_counted_by_hand():
    # four of one size have rank 2.5 each: all four of one sign is one of 16 outcomes on either side
    assert signed_rank([0.1] * 4).p == pytest.approx(2 / 16)
    # 1 - 0.9 and 0.4 - 0.3 are a tie and 0.3 - 0.2 - 0.1 is none, whatever their last digits say
    assert signed_rank([1 - 0.9, 0.4 - 0.3, 0.3 - 0.2 - 0.1]) == (pytest.approx(0.5), 2, True)


def test_the_interval_is_the_bootstraps():
    d = np.random.default_rng(2).normal(0.05, 0.1, 30)
    low, high = bootstrap_interval(d)
    theirs = bootstrap((d,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(3))
    assert (low, high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.003)
    assert bootstrap_interval(d) == (low, high)  # seeded
    assert bootstrap_interval(-d) == pytest.approx((-high, -low), abs=0.003)
    assert bootstrap_interval(d + 1) == pytest.approx((low + 1, high + 1))
    assert bootstrap_interval(2 * d) == pytest.approx((2 * low, 2 * high))
    assert d.min() < low < d.mean() < high < d.max()
    assert bootstrap_interval([0.3] * 5) == pytest.approx((0.3, 0.3))
    assert bootstrap_interval([0.3]) is None and bootstrap_interval([]) is None


def test_the_interval_holds_the_true_mean_as_often_as_it_says():
    rng = np.random.default_rng(4)
    held = [low < 0.2 < high for low, high in (bootstrap_interval(rng.normal(0.2, 1, 40)) for _ in range(300))]
    assert 0.9 < np.mean(held) < 0.98
