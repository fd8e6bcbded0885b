"""Entropy of known distributions."""

import math

import pytest
import torch

from nnunet_ssl.losses.entropy import entropy, max_entropy


@pytest.mark.parametrize(
    ("probs", "expected"),
    [
        ((0.9, 0.1), 0.325081),
        ((0.8, 0.2), 0.500400),
        ((0.7, 0.3), 0.610862),
        ((0.6, 0.4), 0.673010),
        ((0.5, 0.5), 0.693145),
        ((0.25,) * 4, 1.386290),
    ],
)
def test_entropy_over_classes(probs, expected):
    assert entropy(torch.tensor(probs).view(1, -1, 1), False).item() == pytest.approx(expected, abs=1e-6)


def test_regions_are_binary_per_channel():
    result = entropy(torch.tensor([0.9, 0.5]).view(1, 2, 1), True).flatten()
    torch.testing.assert_close(result, torch.tensor([0.325081, 0.693145]), atol=3e-6, rtol=0)


def test_certain_voxels_are_finite():
    assert entropy(torch.tensor([1.0, 0.0]).view(1, 2, 1), False).item() == pytest.approx(0, abs=2e-6)


def test_largest_entropy():
    assert max_entropy(4, False) == pytest.approx(math.log(4))
    assert max_entropy(4, True) == pytest.approx(math.log(2))
