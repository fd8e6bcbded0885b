"""Confidence, the loss of admitted voxels, and the shares that are reported."""

from dataclasses import replace

import pytest
import torch
from workbench import output, task

from nnunet_ssl.losses.confidence import admitted_cross_entropy, admitted_shares


def test_confidence_of_classes_and_of_regions():
    probs = torch.tensor([[0.1, 0.6, 0.3], [0.97, 0.02, 0.01]]).T[None]
    torch.testing.assert_close(output(probs.log(), False).confidence, torch.tensor([[0.6, 0.97]]))
    probs = torch.tensor([[0.1, 0.6], [0.97, 0.5]]).T[None]
    expected = torch.tensor([[0.9, 0.6], [0.97, 0.5]]).T[None]
    torch.testing.assert_close(output(probs.logit(), True).confidence, expected)


def test_confidence_is_float32_and_without_gradient():
    logits = torch.randn(1, 3, 4).half().requires_grad_()
    result = output(logits, False).confidence
    assert result.dtype == torch.float32 and not result.requires_grad


def test_the_loss_divides_by_all_voxels():
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 0.0]]).T[None]
    labels, admitted = torch.tensor([[0, 0, 1]]), torch.tensor([[True, True, False]])
    loss = admitted_cross_entropy(output(logits, False), labels, admitted)
    assert loss.item() == pytest.approx((0.313262 + 1.313262) / 3, abs=1e-6)


def test_the_loss_of_regions_is_binary_and_masked_per_channel():
    logits = torch.tensor([[1.0, 0.0], [-1.0, 2.0]]).T[None]
    labels, admitted = torch.tensor([[[1.0, 0.0], [1.0, 1.0]]]), torch.tensor([[[True, True], [False, True]]])
    loss = admitted_cross_entropy(output(logits, True), labels, admitted)
    assert loss.item() == pytest.approx((0.313262 + 0.313262 + 0.0 + 0.126928) / 4, abs=1e-6)


@pytest.mark.parametrize("regions", [False, True])
def test_nothing_admitted_is_zero_with_zero_gradient(regions):
    logits = torch.randn(2, 3, 5, 5, requires_grad=True)
    labels = torch.zeros(2, 3, 5, 5) if regions else torch.zeros(2, 5, 5, dtype=torch.long)
    loss = admitted_cross_entropy(output(logits, regions), labels, torch.zeros_like(labels, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_half_precision_logits_do_not_lose_small_losses():
    logits = torch.tensor([[9.0, 0.0]]).half().T[None]
    loss = admitted_cross_entropy(output(logits, False), torch.tensor([[0]]), torch.tensor([[True]]))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(1.2340e-4, rel=1e-3)


def test_shares_of_classes():
    labels = torch.tensor([[0, 0, 0, 1, 1]])
    admitted = torch.tensor([[True, True, False, False, True]])
    shares = admitted_shares(labels, admitted, replace(task(channels=3), channels=("background", "liver", "gland")))
    assert {name: round(value.item(), 4) for name, value in shares.items()} == {
        "admitted": 0.6,
        "admitted[background]": 0.6667,
        "admitted[liver]": 0.5,
        "admitted[gland]": 0.0,
    }
    assert all(value.ndim == 0 and value.dtype == torch.float32 for value in shares.values())


def test_shares_of_regions_are_those_of_the_inside():
    labels = torch.tensor([[[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]])
    admitted = torch.tensor([[[True, False, True, True], [True, True, True, True]]])
    shares = admitted_shares(labels, admitted, replace(task(channels=2, regions=True), channels=("whole", "core")))
    assert {name: value.item() for name, value in shares.items()} == {
        "admitted": 0.875,
        "admitted[whole]": 0.5,
        "admitted[core]": 0.0,
    }
