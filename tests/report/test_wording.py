"""Numbers as the report prints them."""

import pytest

from nnunet_ssl.report.wording import DASH, duration, probability, signed


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0504, "+0.050"), (-0.0504, "−0.050"), (0.0, "+0.000"), (-0.0004, "+0.000"), (None, DASH)],
)
def test_a_difference_has_its_sign_as_printed(value, text):
    assert signed(value) == text


@pytest.mark.parametrize(("p", "text"), [(0.0126, "0.013"), (0.00099, "< 0.001"), (0.001, "0.001"), (None, DASH)])
def test_a_probability(p, text):
    assert probability(p) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(98, "98 s"), (150, "2.5 min"), (98 * 60, "98 min"), (99 * 60, "1.6 h"), (5400 * 4, "6.0 h")]
)
def test_a_duration_as_people_say_it(seconds, text):
    assert duration(seconds) == text
