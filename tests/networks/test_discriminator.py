"""The evaluation network: published sizes, any patch, dropout in training only."""

import pytest
import torch

from nnunet_ssl.networks.discriminator import Discriminator


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_sizes_of_the_published_networks():
    # 2D: the linear layer reads 512 features and not 2 x 2 x 512
    assert count(Discriminator(4, 1, (256, 256), 0.5)) == 2_762_754 - 2 * (2048 - 512)
    assert count(Discriminator(2, 1, (96, 96, 96), 0.5)) == 11_024_386


@pytest.mark.parametrize("patch", [(224, 224), (256, 256), (96, 96, 96)])
def test_published_shapes(patch):
    with torch.device("meta"):
        network = Discriminator(2, 1, patch, 0.5)
        assert network(torch.empty(3, 2, *patch), torch.empty(3, 1, *patch)).shape == (3, 2)


@pytest.mark.parametrize(
    "patch", [(16, 16), (16, 16, 16), (31, 47), (17, 20, 23), (5, 32, 16), (1, 16, 16), (4, 4), (20, 16, 64)]
)
def test_any_patch(patch):
    torch.manual_seed(0)
    network = Discriminator(3, 2, patch, 0.5)
    probs = torch.rand(2, 3, *patch, requires_grad=True)
    logits = network(probs, torch.randn(2, 2, *patch))
    assert logits.shape == (2, 2)
    logits.square().sum().backward()
    assert probs.grad.any()
    assert all(parameter.grad.any() for parameter in network.parameters())


def test_short_axes_are_kept():
    strides = {
        (96, 96, 96): [(2, 2, 2)] * 4,
        (8, 16, 64): [(2, 2, 2), (1, 2, 2), (1, 1, 2), (1, 1, 2)],
        (7, 63): [(1, 2), (1, 2), (1, 2), (1, 1)],
    }
    for patch, expected in strides.items():
        network = Discriminator(2, 1, patch, 0.0)
        convolutions = [network.image_stem, *(layer for layer in network.layers if hasattr(layer, "kernel_size"))]
        assert [layer.stride for layer in convolutions] == expected
        assert network.prediction_stem.stride == expected[0]
        for layer in convolutions:
            assert layer.kernel_size == tuple({1: 3, 2: 4}[stride] for stride in layer.stride)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_dropout_in_training_only(dimensions):
    torch.manual_seed(0)
    network = Discriminator(2, 1, (16,) * dimensions, 0.5)
    batch = torch.rand(2, 2, *[16] * dimensions), torch.randn(2, 1, *[16] * dimensions)
    assert not torch.equal(network(*batch), network(*batch))
    network.eval()
    assert torch.equal(network(*batch), network(*batch))


def test_stems_are_added():
    torch.manual_seed(0)
    network = Discriminator(2, 1, (16, 16), 0.0)
    probs, image = torch.rand(1, 2, 16, 16), torch.randn(1, 1, 16, 16)
    seen = []
    network.layers.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    network(probs, image)
    torch.testing.assert_close(seen[0], network.prediction_stem(probs) + network.image_stem(image))
