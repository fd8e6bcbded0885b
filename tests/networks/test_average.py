"""Weights that move towards the mean of others."""

import pytest
import torch
from torch import nn

from nnunet_ssl.networks.average import approach


def constant(value):
    layer = nn.Linear(2, 2)
    for parameter in layer.parameters():
        nn.init.constant_(parameter, value)
    return layer


@pytest.mark.parametrize(("others", "expected"), [((3.0, 5.0), 1.03), ((2.0,), 1.01)])
def test_a_hundredth_of_the_way_to_the_mean_of_the_others(others, expected):
    network, others = constant(1.0), [constant(value) for value in others]
    parameters, before = list(network.parameters()), [copy.weight.clone() for copy in others]
    approach(network, others, 0.01)
    for parameter in parameters:  # in place: an optimizer and DDP keep them
        torch.testing.assert_close(parameter, torch.full_like(parameter, expected))
    assert all(torch.equal(copy.weight, value) for copy, value in zip(others, before, strict=True))


def test_what_the_others_lack_and_buffers_stay_as_they_are():
    network, other = constant(1.0), constant(3.0)
    network.further = nn.Parameter(torch.ones(2))
    for each, value in ((network, 1.0), (other, 3.0)):
        each.register_buffer("statistics", torch.tensor(value))
    approach(network, [other], 0.5)
    assert network.weight[0, 0] == 2 and network.further.tolist() == [1, 1] and network.statistics == 1
