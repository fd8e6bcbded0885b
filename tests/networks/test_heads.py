"""Low-resolution heads read perturbed features of the unlabeled patches in training, and nothing else changes."""

import pytest
import torch
from torch import nn

from nnunet_ssl.networks.heads import PerturbedHeads


def plus_one(features):
    return features + 1


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_only_lower_heads_and_rows_from_first_on_in_training(tiny_net, dimensions, compiled):
    network, plain = tiny_net(dimensions).module, tiny_net(dimensions).module
    heads = PerturbedHeads(network, (plus_one,))
    assert list(network.state_dict()) == list(plain.state_dict())
    run = torch.compile(network, backend="aot_eager") if compiled else network
    image = torch.randn(4, 1, *[16] * dimensions)
    expected = plain(image)
    shift = plain.decoder.seg_layers[0].weight.sum(dim=tuple(range(1, dimensions + 2)))
    for first in (1, 3, 1):
        heads.first = first
        full, half = run(image)
        assert torch.equal(full, expected[0])
        assert torch.equal(half[:first], expected[1][:first])
        moved = (half - expected[1])[first:]
        torch.testing.assert_close(moved, shift.view(1, -1, *[1] * dimensions).expand_as(moved))
    network.eval()
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(run(image), expected, strict=True))


def test_other_architectures_are_refused_with_a_reason():
    with pytest.raises(NotImplementedError, match=r"Linear has no decoder.seg_layers"):
        PerturbedHeads(nn.Linear(2, 2), (plus_one,))
