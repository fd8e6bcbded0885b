"""The mean prediction against the numbers of its formula."""

import pytest
import torch
from workbench import kind

from nnunet_ssl.memory.prior import Prior


def says(*probs):
    """Probabilities (1, C, 1, 1)."""
    return torch.tensor(probs).view(1, -1, 1, 1)


def test_moving_average():
    prior = Prior(kind(3), 0.99, (1, 1))
    prior.q.copy_(torch.tensor([0.7, 0.2, 0.1]).view(3, 1, 1))
    prior.update(says(2.0, 1.0, 0.5).softmax(1))
    torch.testing.assert_close(prior.q.flatten(), torch.tensor([0.699285, 0.200312, 0.100402]), atol=1e-6, rtol=0)
    assert prior.q.sum().item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("regions", "start"), [(False, 0.25), (True, 0.5)])
def test_uniform_at_the_start_and_then_shifts_all_logits_alike(regions, start):
    prior = Prior(kind(4, regions), 0.99, (1, 1, 1))
    assert prior.q.shape == (4, 1, 1, 1) and (prior.q == start).all()
    assert prior.logits().unique().numel() == 1


def test_for_each_position_it_is_a_mean_over_patches_alone():
    probs = torch.rand(2, 3, 4, 5).softmax(1)
    everywhere, here = Prior(kind(3), 0.0, (1, 1)), Prior(kind(3), 0.0, (4, 5))
    everywhere.update(probs)
    here.update(probs)
    torch.testing.assert_close(here.q, probs.mean(0))
    torch.testing.assert_close(everywhere.q.flatten(), probs.mean((0, 2, 3)))


@pytest.mark.parametrize("regions", [False, True])
def test_what_is_never_or_always_said_has_finite_logits(regions):
    prior = Prior(kind(2, regions), 0.0, (1, 1))
    prior.update(says(0.0, 1.0))
    assert prior.q.flatten().tolist() == [0, 1]
    never, always = prior.logits().flatten().tolist()
    assert never == pytest.approx(-13.8155, abs=1e-3)
    assert always == pytest.approx(13.8155 if regions else 0, abs=0.1)


def test_small_classes_are_not_lost_in_half_precision():
    prior = Prior(kind(2), 0.99, (1, 1))
    with torch.autocast("cpu", torch.float16):
        prior.update(says(1 - 1e-6, 1e-6).expand(1, 2, 64, 64))
    assert prior.q[1].item() == pytest.approx(0.99 * 0.5 + 0.01 * 1e-6, abs=1e-8)


def test_a_step_that_overflowed_leaves_no_trace():
    prior = Prior(kind(2), 0.99, (1, 1))
    prior.update(says(float("nan"), 0.5))
    assert prior.q.flatten().tolist() == [0.5, 0.5]
