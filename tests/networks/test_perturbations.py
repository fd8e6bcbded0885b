"""Perturbations of features do what the paper says, and in bounds."""

import pytest
import torch

from nnunet_ssl.networks.perturbations import below, element_dropout, feature_drop, feature_noise


@pytest.mark.parametrize("dimensions", [2, 3])
def test_noise_is_relative_bounded_and_one_map_for_all_samples(dimensions):
    torch.manual_seed(0)
    features = torch.rand(3, 4, *[8] * dimensions) + 0.5
    features[:, :, 0] = 0.0
    noisy = feature_noise(features)
    assert (noisy[:, :, 0] == 0).all()
    relative = noisy[:, :, 1:] / features[:, :, 1:] - 1
    assert relative.abs().max() <= 0.3 + 1e-6
    assert relative.min() < -0.25 and relative.max() > 0.25
    torch.testing.assert_close(relative[1:], relative[:1].expand_as(relative[1:]), atol=1e-6, rtol=0)


def test_dropout_keeps_the_mean():
    torch.manual_seed(0)
    dropped = element_dropout(torch.ones(4, 8, 32, 32))
    kept = dropped != 0
    assert kept.float().mean().item() == pytest.approx(0.7, abs=0.01)  # 5 standard errors are 0.013
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.015)
    torch.testing.assert_close(dropped[kept], torch.full_like(dropped[kept], 1 / 0.7))


def test_the_most_active_voxels_are_dropped_unless_all_are_negative():
    features = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]], [[[-1.0, -2.0], [-3.0, -4.0]]]])
    kept = features * below(features, torch.tensor([0.75, 0.75]))
    assert kept.tolist() == [[[[1.0, 2.0], [0.0, 0.0]]], [[[-1.0, -2.0], [-3.0, -4.0]]]]


def test_activity_is_the_mean_over_channels_and_each_sample_has_its_own_threshold():
    ramp = torch.linspace(0.01, 1, 100).view(1, 1, 100, 1)
    features = torch.cat((2 * ramp, 0 * ramp), 1).repeat(50, 1, 1, 1)
    torch.manual_seed(0)
    dropped = feature_drop(features)
    shares = (dropped[:, 0] > 0).float().mean((1, 2))
    assert shares.min() >= 0.69 and shares.max() <= 0.91
    assert len(shares.unique()) > 10
