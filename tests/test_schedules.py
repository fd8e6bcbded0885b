"""Ramp-ups and decays at their ends, in the middle, and against published values."""

import math

import pytest
import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.lr_scheduler.warmup import PolyLRScheduler_offset

from nnunet_ssl.schedules import (
    Phases,
    Restarted,
    ema_decay,
    gaussian_rampup,
    polynomial_decay,
    reversal_coefficient,
)


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


def test_polynomial_decay_is_nnunets():
    assert polynomial_decay(0) == 1
    assert polynomial_decay(0.5) == pytest.approx(0.5**0.9)
    assert polynomial_decay(1) == 0
    assert polynomial_decay(1.5) == 0
    network = torch.nn.Linear(1, 1)
    schedule = PolyLRScheduler(torch.optim.SGD(network.parameters(), 0.01), 0.01, 1000)
    for epoch in (0, 1, 500, 999):
        schedule.step(epoch)
        assert schedule.optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * polynomial_decay(epoch / 1000))


def test_polynomial_decay_after_a_warmup_is_nnunets_for_transformers():
    assert [polynomial_decay(fraction, 0.05) for fraction in (0, 0.025, 0.05)] == pytest.approx([0, 0.5, 1])
    network = torch.nn.Linear(1, 1)
    schedule = PolyLRScheduler_offset(torch.optim.AdamW(network.parameters(), 3e-4), 3e-4, 1000, 50)
    for epoch in (50, 51, 525, 999):
        schedule.step(epoch)
        rate = schedule.optimizer.param_groups[0]["lr"]
        assert rate == pytest.approx(3e-4 * polynomial_decay(epoch / 1000, 0.05))
    values = [polynomial_decay(i / 40, 0.05) for i in range(41)]
    assert values[2:] == sorted(values[2:], reverse=True)


def test_each_phase_runs_through_the_whole_schedule():
    phases = Phases([4, 6], 8)
    assert [phases.of(epoch) for epoch in range(8)] == [0, 0, 0, 0, 1, 1, 2, 2]
    assert [epoch for epoch in range(8) if phases.begin_with(epoch)] == [4, 6]
    assert [phases.epoch_of_schedule(epoch) for epoch in range(8)] == [0, 2, 4, 6, 0, 4, 0, 4]
    assert [Phases([], 8).epoch_of_schedule(epoch) for epoch in range(8)] == list(range(8))


def test_phases_begin_with_whole_epochs_but_the_first_and_none_after_the_last():
    assert Phases.at((0.5, 0.75), 8).starts == [4, 6]
    assert Phases.at((0.01, 0.02), 8).starts == [1]
    assert Phases.at((0.5, 0.99), 2).starts == [1] and Phases.at((0.5,), 1).starts == []


def test_the_learning_rate_starts_anew_with_each_phase():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    schedule = Restarted(PolyLRScheduler(optimizer, 0.01, 8), Phases([4], 8))
    rates = []
    for epoch in range(8):
        schedule.step(epoch)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[4:] == rates[:4] == [pytest.approx(0.01 * (1 - r) ** 0.9) for r in (0, 0.25, 0.5, 0.75)]


@pytest.mark.parametrize(
    ("step", "unit", "expected"),
    [
        (0, 500, 0), (1, 500, 0.0001), (100, 500, 0.009966799), (500, 500, 0.046211716), (1000, 500, 0.076159416),
        (5000, 500, 0.099990920), (1000, 1000, 0.046211716),
    ],
)  # fmt: skip
def test_reversal_coefficient_rises_from_nothing_to_its_limit(step, unit, expected):
    steps = 45000
    assert reversal_coefficient(step / steps, unit / steps, 0.1) == pytest.approx(expected, abs=1e-9)
    assert reversal_coefficient(step / steps, 0, 0.1) == 0.1
