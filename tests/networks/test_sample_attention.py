"""Attention among the voxels of a patch and among patches."""

import pytest
import torch
from workbench import tiny_architecture

from nnunet_ssl.networks.sample_attention import SampleAttention, _place, with_sample_attention


def changed(out, other):
    """Which (patch, voxel) differ."""
    return (out - other).abs().amax(-1) > 1e-7


def test_one_layer_attends_within_a_patch_and_the_other_between_patches():
    torch.manual_seed(0)
    attention = SampleAttention(8, 0.0)
    tokens = torch.randn(3, 5, 8)  # patches, voxels, features
    moved = tokens.clone()
    moved[1, 2] += 1
    within = changed(attention.intra(tokens), attention.intra(moved))
    assert within.tolist() == [[False] * 5, [True] * 5, [False] * 5]
    between = changed(*(attention.inter(each.transpose(0, 1)).transpose(0, 1) for each in (tokens, moved)))
    assert between.tolist() == [[False, False, True, False, False]] * 3


def test_both_together_in_training():
    torch.manual_seed(0)
    attention, x = SampleAttention(8, 0.0), torch.randn(3, 8, 2, 2)
    inter = attention.inter(attention.intra(x.flatten(2).transpose(1, 2)).transpose(0, 1))  # (voxels, patches, F)
    torch.testing.assert_close(attention(x), inter.permute(1, 2, 0).view_as(x))


def test_it_changes_no_bit_in_evaluation():
    attention, x = SampleAttention(8, 0.5).eval(), torch.randn(2, 8, 3, 3)
    assert torch.equal(attention(x), x)
    network, image = with_sample_attention(tiny_architecture(2, 3), (16, 16), 0.5), torch.randn(2, 1, 16, 16)
    trained = network(image)[0]
    network.eval()
    seen = network(image)[0]
    torch.testing.assert_close(network(image[:1])[0], seen[:1])  # the other patch is not seen
    assert not torch.allclose(trained, seen)


def test_a_layer_has_as_many_parameters_as_the_papers():
    attention = SampleAttention(128, 0.5)
    assert [sum(p.numel() for p in layer.parameters()) for layer in (attention.intra, attention.inter)] == [198272] * 2


@pytest.mark.parametrize(
    ("patch", "strides", "place"),
    [
        pytest.param((112, 112, 80), [1, 2, 2, 2, 2], 3, id="the paper's: 14 x 14 x 10"),
        pytest.param((128, 128, 128), [1, 2, 2, 2, 2, 2], 3, id="16^3"),
        pytest.param((20, 320, 256), [1, (1, 2, 2), (1, 2, 2), 2, 2, (1, 2, 2)], 4, id="10 x 40 x 32 are too many"),
        pytest.param((512, 512), [1, 2, 2, 2, 2, 2, 2, 2], 3, id="64^2"),
        pytest.param((16, 16), [1, 2, 2], 1, id="few stages: before the last"),
        pytest.param((16, 16), [1], 0, id="one stage"),
        pytest.param((512, 512, 512), [1, 2, 2], 2, id="nowhere few enough: the last"),
    ],
)
def test_its_place_is_the_fourth_stage_or_a_lower_one_with_fewer_voxels(patch, strides, place):
    assert _place(strides, patch) == place


@pytest.mark.parametrize("dimensions", [2, 3])
def test_encoder_weights_keep_their_names_and_everything_is_trained(dimensions):
    architecture = tiny_architecture(dimensions, 3)
    network = with_sample_attention(architecture, (16,) * dimensions, 0.0)
    plain = architecture().encoder.state_dict()
    assert network.encoder.state_dict().keys() == plain.keys()
    sum(scale.square().mean() for scale in network(torch.randn(2, 1, *[16] * dimensions))).backward()
    assert all(p.grad is not None for p in network.parameters())
