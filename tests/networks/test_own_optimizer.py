"""A method's own optimizer: state, learning rate, and who steps it."""

import copy

import pytest
import torch
from torch import nn

from nnunet_ssl.networks.own_optimizer import MAX_GRADIENT_NORM, OwnOptimizer


class Owner(nn.Module):
    def __init__(self, **arguments):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 2)
        self.own = OwnOptimizer(torch.optim.AdamW(self.layer.parameters(), 0.1), **arguments)

    def step(self, seed):
        image = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))
        self.own.optimizer.zero_grad()
        self.layer(image).square().mean().backward()
        self.own.optimizer.step()


def test_state_goes_round(tmp_path):
    owner = Owner()
    for seed in range(3):
        owner.own.follow(seed / 10)
        owner.step(seed)
    torch.save(owner.state_dict(), tmp_path / "state")
    owner.step(3)

    restored = Owner()
    restored.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert restored.own.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.8**0.9)
    restored.step(3)
    for mine, theirs in zip(owner.parameters(), restored.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_without_its_state_the_next_step_is_another():
    owner = Owner()
    for seed in range(3):
        owner.step(seed)
    forgetful = Owner()
    forgetful.layer.load_state_dict(copy.deepcopy(owner.layer.state_dict()))
    owner.step(3)
    forgetful.step(3)
    assert not torch.equal(owner.layer.weight, forgetful.layer.weight)


def test_follow_warms_up_and_decays_from_the_first_rate_whatever_was_set_before():
    owner = Owner(warmup=0.05)
    rates = []
    for fraction in (0.0, 0.025, 0.05, 0.525, 1.0, 0.05):
        owner.own.follow(fraction)
        rates.append(owner.own.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0, 0.05, 0.1, 0.1 * 0.5**0.9, 0, 0.1])


def test_joint_unless_frozen():
    owner = Owner()
    assert owner.own.joint
    frozen = nn.Linear(2, 2).requires_grad_(False)
    own = OwnOptimizer(torch.optim.Adam(frozen.parameters()))
    frozen.requires_grad_(True)
    assert not own.joint
    assert own.trained == list(frozen.parameters())


def test_norm_to_clip_to_stands_in_every_group():
    assert {group["max_norm"] for group in Owner().own.optimizer.param_groups} == {MAX_GRADIENT_NORM} == {12.0}
    assert {group["max_norm"] for group in Owner(max_norm=1.0).own.optimizer.param_groups} == {1.0}


def test_has_no_parameters_of_its_own():
    assert list(Owner().own.parameters()) == []


def test_a_frozen_network_takes_a_step_on_a_loss_of_its_own():
    owner, frozen, image = Owner(), Owner(), torch.randn(4, 3)
    frozen.layer.requires_grad_(False)
    frozen.own = OwnOptimizer(torch.optim.AdamW(frozen.layer.parameters(), 0.1))
    assert not frozen.own.joint
    with torch.no_grad():
        loss = frozen.own.minimize(lambda: 1e3 * frozen.layer(image).square().mean())  # above what is clipped to
    expected = 1e3 * owner.layer(image).square().mean()
    expected.backward()
    owner.own.optimizer.step()
    assert torch.equal(loss, expected.detach()) and not loss.requires_grad
    for mine, theirs in zip(frozen.layer.parameters(), owner.layer.parameters(), strict=True):
        assert torch.equal(mine, theirs) and not mine.requires_grad


def test_a_loss_that_overflowed_leaves_a_frozen_network_and_its_state_finite():
    frozen = Owner()
    frozen.layer.requires_grad_(False)
    assert frozen.own.minimize(lambda: frozen.layer(torch.full((4, 3), torch.nan)).mean()).isnan()
    assert all(parameter.isfinite().all() for parameter in frozen.layer.parameters())
    assert all(value.isfinite().all() for each in frozen.own.optimizer.state.values() for value in each.values())
