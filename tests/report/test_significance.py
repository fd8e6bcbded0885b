"""The paired test and Holm's correction on numbers that were counted by hand."""

import pytest

from nnunet_ssl.report.significance import holm, paired_p, smallest_p


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
