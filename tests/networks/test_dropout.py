"""Channel dropout really varies, only where it is asked to, and refuses networks it does not know."""

import pytest
import torch
from torch import nn

from nnunet_ssl.networks.dropout import add_dropout, channel_dropout, dropout_places


@pytest.mark.parametrize("dimensions", [2, 3])
def test_passes_vary_inside_and_agree_outside(tiny_net, dimensions):
    network = tiny_net(dimensions).module.eval()
    image = torch.randn(1, 1, *[16] * dimensions)
    plain = network(image)[0]
    with channel_dropout(network, 0.5):
        first, second = network(image)[0], network(image)[0]
    assert not torch.equal(first, second)
    assert torch.equal(network(image)[0], plain)


def test_probability_zero_changes_nothing(tiny_net):
    network = tiny_net().module
    image = torch.randn(2, 1, 16, 16)
    with channel_dropout(network, 0.0):
        inside = network(image)[0]
    assert torch.equal(inside, network(image)[0])


def test_whole_channels_of_the_bottleneck_are_dropped(tiny_net):
    network = tiny_net().module
    seen = []
    torch.manual_seed(0)
    with channel_dropout(network, 0.5):
        handle = network.decoder.transpconvs[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        network(torch.randn(4, 1, 16, 16))
        handle.remove()
    dropped = (seen[0] == 0).all(dim=(2, 3))
    assert 0 < dropped.sum() < dropped.numel()


def test_other_architectures_are_refused_with_a_reason():
    with pytest.raises(NotImplementedError, match="Linear has no encoder"):
        dropout_places(nn.Linear(2, 2))


@pytest.mark.parametrize("dimensions", [2, 3])
def test_added_dropout_acts_in_training_only(tiny_net, dimensions):
    network = tiny_net(dimensions).module
    image = torch.randn(1, 1, *[16] * dimensions)
    names, plain = list(network.state_dict()), network(image)[0]
    add_dropout(network, 0.5)
    assert list(network.state_dict()) == names
    network.train()
    assert not torch.equal(network(image)[0], network(image)[0])
    network.eval()
    assert torch.equal(network(image)[0], plain)


def test_both_halves_of_a_batch_have_their_own_masks(tiny_net):
    network = tiny_net().module.train()
    add_dropout(network, 0.5)
    first, second = network(torch.randn(1, 1, 16, 16).expand(2, -1, -1, -1))[0]
    assert not torch.equal(first, second)


def test_kept_channels_are_scaled_so_that_the_mean_stays(tiny_net):
    network = tiny_net().module.train()
    add_dropout(network, 0.25)
    read = []
    head = network.decoder.seg_layers[-1]
    head.register_forward_hook(lambda module, args, out: read.append(args[0]))
    features = 1 + torch.rand(500, head.in_channels, 2, 2)
    torch.manual_seed(0)
    head(features)
    kept = (read[0] != 0).all((2, 3))
    assert torch.equal(kept, (read[0] != 0).any(3).any(2))
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.03)
    torch.testing.assert_close(read[0][kept], features[kept] / 0.75)


def test_added_dropout_survives_compilation(tiny_net):
    network = tiny_net().module.train()
    image = torch.randn(1, 1, 16, 16)
    plain = network.eval()(image)[0]
    network.train()
    add_dropout(network, 0.5)
    compiled = torch.compile(network, backend="aot_eager")
    first, second = compiled(image)[0], compiled(image)[0]
    assert not torch.equal(first, second)
    compiled.eval()
    torch.testing.assert_close(compiled(image)[0], plain)
