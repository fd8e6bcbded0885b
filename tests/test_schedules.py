"""Ramp-ups and decays at their ends, in the middle, and against published values."""

import math

import pytest

from nnunet_ssl.schedules import ema_decay, gaussian_rampup


def test_rampup_at_its_ends_and_half_way():
    assert gaussian_rampup(0) == pytest.approx(math.exp(-5))
    assert 0.1 * gaussian_rampup(0.5) == pytest.approx(0.02865048, abs=5e-9)
    assert 0.1 * gaussian_rampup(0) == pytest.approx(0.00067379, abs=5e-9)
    assert gaussian_rampup(1) == 1


def test_rampup_is_constant_outside_its_interval_and_rises_within():
    assert gaussian_rampup(-1) == gaussian_rampup(0)
    assert gaussian_rampup(7) == 1
    values = [gaussian_rampup(i / 20) for i in range(21)]
    assert values == sorted(values)


def test_rampup_of_a_shorter_length_and_of_none():
    assert gaussian_rampup(0.2, 0.4) == gaussian_rampup(0.5)
    assert gaussian_rampup(0.4, 0.4) == gaussian_rampup(0.9, 0.4) == 1
    assert gaussian_rampup(0.0, 0.0) == 1


def test_ema_decay_copies_first_and_reaches_its_limit_at_step_99():
    assert ema_decay(0, 0.99) == 0
    assert ema_decay(1, 0.99) == 0.5
    assert ema_decay(98, 0.99) < 0.99
    assert ema_decay(99, 0.99) == pytest.approx(0.99)
    assert ema_decay(10**6, 0.99) == 0.99
