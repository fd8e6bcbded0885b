"""Channel dropout really varies, only inside its context, and refuses networks it does not know."""

import pytest
import torch
from torch import nn

from nnunet_ssl.networks.dropout import channel_dropout, dropout_places


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
