"""The critic: sizes of the published one, its norm against PyTorch's, ignored voxels, and whom its losses reach."""

import math

import pytest
import torch
from torch import nn
from workbench import kind, output

from nnunet_ssl.networks.critic import Critic


def maps_of(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).mul(3).softmax(1)


def says(*probs):
    """A critic whose verdicts are these probabilities."""
    critic = Critic(kind(2))
    critic.forward = lambda maps, counted=None: torch.tensor(probs).logit().view(1, 1, -1)
    return critic


def published(critic, dimensions):
    """The same weights in PyTorch's layers."""
    conv, norm = {2: (nn.Conv2d, nn.BatchNorm2d), 3: (nn.Conv3d, nn.BatchNorm3d)}[dimensions]
    layers = []
    for layer in critic.layers:
        after, before = layer.weight.shape
        layers += [conv(before, after, 1, bias=False), norm(after), nn.LeakyReLU(0.2)]
        layers[-3].weight.data = layer.weight.data.view(after, before, *[1] * dimensions)
        layers[-2].weight.data, layers[-2].bias.data = layer.scale.data, layer.shift.data
    return nn.Sequential(*layers)


def trained(critic):
    """With a scale and a shift that have left their first values."""
    for layer in critic.layers:
        nn.init.uniform_(layer.scale, 0.5, 1.5)
        nn.init.normal_(layer.shift)
    return critic


def test_size_of_the_published_one():
    assert sum(parameter.numel() for parameter in Critic(kind(1, regions=True)).parameters()) == 2866


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize(("channels", "regions", "verdicts"), [(2, False, 1), (5, False, 1), (3, True, 3)])
def test_is_the_published_one_on_maps_of_any_size(dimensions, channels, regions, verdicts):
    torch.manual_seed(0)
    critic, maps = trained(Critic(kind(channels, regions))), maps_of(2, channels, *(7, 9, 5)[:dimensions])
    verdict = critic(maps)
    assert verdict.shape == (2, verdicts, *maps.shape[2:])
    torch.testing.assert_close(verdict, published(critic, dimensions)(maps), atol=1e-4, rtol=1e-4)
    critic.eval()
    assert torch.equal(critic(maps), verdict)


def test_ignored_voxels_are_felt_nowhere():
    torch.manual_seed(0)
    critic, maps, known = trained(Critic(kind(3))), maps_of(2, 3, 6, 6), torch.ones(2, 6, 6, dtype=torch.bool)
    known[:, 4:] = False
    garbage = torch.where(known[:, None], maps, maps_of(2, 3, 6, 6, seed=1))
    seen = maps[:, :, :4]
    torch.testing.assert_close(critic(garbage, known)[:, :, :4], critic(seen), atol=1e-5, rtol=1e-5)
    for real in (False, True):
        torch.testing.assert_close(critic.loss(garbage, known, real=real), critic.loss(seen, real=real))
    garbage.requires_grad_()
    critic.deceived(garbage, known).backward()
    assert garbage.grad[:, :, :4].any() and not garbage.grad[:, :, 4:].any()
    assert critic.loss(maps, torch.zeros_like(known), real=True) == 0


def test_its_loss_and_that_of_a_network_that_wants_to_deceive_it():
    """Voxels of ground truth that it gives 0.8 and 0.6, and of a prediction, 0.3 and 0.4."""
    maps = torch.zeros(1, 2, 2)
    losses = says(0.8, 0.6).loss(maps, real=True), says(0.3, 0.4).loss(maps, real=False)
    assert sum(losses).item() / 2 == pytest.approx(0.400367, abs=1e-6)
    assert says(0.3, 0.4).loss(maps, real=True).item() == pytest.approx(1.060132, abs=1e-6)


def test_its_error_is_the_mean_of_both_losses():
    torch.manual_seed(0)
    critic, real, fake = Critic(kind(2)), maps_of(2, 2, 4, 4), maps_of(3, 2, 4, 4, seed=1)
    error = critic.error((real, None), (fake, None))
    torch.testing.assert_close(error, (critic.loss(real, real=True) + critic.loss(fake, real=False)) / 2)


def test_to_deceive_it_teaches_the_maps_alone_and_what_the_loss_would():
    torch.manual_seed(0)
    critic, maps = trained(Critic(kind(3))), maps_of(2, 3, 6, 6).requires_grad_()
    expected = critic.loss(maps, real=True)
    (gradient,) = torch.autograd.grad(expected, maps)
    deceived = critic.deceived(maps)
    assert torch.equal(deceived, expected) and gradient.any()
    (0.5 * deceived).backward()
    torch.testing.assert_close(maps.grad, 0.5 * gradient)
    assert all(parameter.grad is None for parameter in critic.parameters())


@pytest.mark.parametrize("regions", [False, True])
def test_belief_is_a_voxel_map_without_gradient(regions):
    torch.manual_seed(0)
    critic, said = Critic(kind(2, regions)), output(torch.randn(1, 2, 4, 4, requires_grad=True), regions)
    believed = critic.believes(said, 0.5)
    assert torch.equal(said.kind.as_channels(believed), critic(said.probs) > 0)
    assert believed.any() and not believed.all() and believed.shape == said.hard.shape
    assert said.probs.requires_grad


def test_learns_to_tell_ground_truth_from_predictions():
    torch.manual_seed(0)
    critic, labels = Critic(kind(2)), torch.rand(2, 16, 16) < 0.15
    real, fake = torch.stack((~labels, labels), 1), maps_of(4, 2, 16, 16)
    adam, errors = torch.optim.AdamW(critic.parameters(), 1e-3), []
    for _ in range(100):
        errors.append(critic.error((real, None), (fake, None)))
        adam.zero_grad()
        errors[-1].backward()
        adam.step()
    assert errors[-1] < 0.68 < math.log(2) < errors[0]  # that of a critic that cannot tell
