"""The transformer: any patch in 2D and 3D, positions, drop path, and what it shares with the plans' Primus."""

import pytest
import torch

from nnunet_ssl.networks.backbones import Primus
from nnunet_ssl.networks.transformer import token_sizes, transformer


def small(patch, channels=3, drop_path=0.0, image_channels=1):
    torch.manual_seed(0)
    return transformer(image_channels, channels, patch, token_sizes(patch), 48, 2, 2, drop_path)


@pytest.mark.parametrize(
    ("patch", "expected"),
    [((16, 24), (8, 8)), ((20, 256, 224), (4, 8, 8)), ((14, 90, 1), (2, 2, 1)), ((160, 12, 9), (8, 4, 1))],
)
def test_tokens_are_the_largest_powers_of_two_that_divide_the_patch(patch, expected):
    assert token_sizes(patch) == expected


@pytest.mark.parametrize("channels", [1, 14])
@pytest.mark.parametrize(
    "patch", [(16, 24), (12, 16), (9, 32), (6, 10), (16, 8, 24), (5, 20, 16), (1, 16, 16), (2, 7, 3)]
)
def test_shape_and_gradients(patch, channels):
    network = small(patch, channels, image_channels=2)
    image = torch.randn(2, 2, *patch)
    logits = network(image)
    assert logits.shape == (2, channels, *patch)
    logits.square().mean().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize("patch", [(16, 24), (8, 16, 16)])
def test_every_voxel_can_depend_on_every_other(patch):
    """Attention joins all tokens, and the slice of a 2D image is not lost."""
    network = small(patch)
    image = torch.randn(1, 1, *patch, requires_grad=True)
    corner = (0, slice(None), *[0] * len(patch))
    network(image)[corner].square().sum().backward()
    assert (image.grad != 0).all()


def test_positions_count():
    """Two patches with their tokens exchanged give other logits than exchanged ones."""
    network, image = small((16, 16)), torch.randn(1, 1, 16, 16)
    torch.testing.assert_close(network(image), network(image))
    assert not torch.allclose(network(image.roll(8, 2)), network(image).roll(8, 2), atol=1e-4)


def test_2d_is_a_volume_of_one_slice():
    flat, volume = small((16, 24)), small((1, 16, 24))
    assert dict(flat.network.named_parameters()).keys() == dict(volume.named_parameters()).keys()
    image = torch.randn(2, 1, 16, 24)
    assert torch.equal(flat(image), volume(image[:, :, None])[:, :, 0])


def test_drop_path_acts_in_training_only():
    network, image = small((16, 16), drop_path=0.9), torch.randn(4, 1, 16, 16)
    assert any(not torch.equal(network(image), network(image)) for _ in range(5))
    network.eval()
    assert torch.equal(network(image), network(image))


def test_the_plans_primus_is_the_same_network():
    plans = Primus(1, 3, patch_size=[16, 8, 8], token_size=[8, 8, 8], embed_dim=48, depth=2, heads=2).network
    assert {name: p.shape for name, p in plans.named_parameters()} == {
        name: p.shape for name, p in small((16, 8, 8)).named_parameters()
    }
