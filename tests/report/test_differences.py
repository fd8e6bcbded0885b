"""Differences of paired cases: signs, what is left out, and the mean of a case's classes."""

import pytest

from nnunet_ssl.report.differences import case_means, differences


def test_more_dice_and_less_distance_are_better():
    method, baseline = {"a": 0.9, "b": 0.5, "c": 0.7, "d": 0.75}, {"a": 0.7, "b": 0.6, "c": 0.7, "d": 0.7}
    found = differences("dice", method, baseline)
    assert found["better"] == ["a", "d"] and found["worse"] == ["b"] and found["n"] == 4
    assert found["mean"] == pytest.approx((0.2 - 0.1 + 0 + 0.05) / 4)
    assert found["per_case"] == pytest.approx({"a": 0.2, "b": -0.1, "c": 0, "d": 0.05})
    found = differences("hd95_mm", method, baseline)
    assert found["better"] == ["b"] and found["worse"] == ["a", "d"]


def test_a_case_without_one_of_the_values_is_no_pair():
    found = differences("asd_mm", {"a": 1.0, "b": None, "c": 2.0}, {"a": 3.0, "b": 1.0, "c": None})
    assert found["per_case"] == {"a": -2.0} and found["n"] == 1 and found["interval"] is None and found["p"] == 1.0
    found = differences("asd_mm", {"a": None}, {"a": 1.0})
    assert (found["n"], found["mean"], found["p"], found["interval"]) == (0, None, None, None)


def test_a_case_is_the_mean_of_the_classes_that_it_has():
    means = case_means({"a": {"liver": 0.8, "gland": 0.4}, "b": {"liver": 0.6, "gland": None}, "c": {"liver": None}})
    assert means == {"a": pytest.approx(0.6), "b": 0.6, "c": None}
