"""Guidance of the plan's networks by prompts of the classes."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from workbench import tiny_architecture

from nnunet_ssl.networks.net import Net
from nnunet_ssl.networks.text_guidance import TextGuidance, TextVisionFusion, with_text_guidance


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_any_u_net_of_nnunets_plans_is_guided(dimensions, residual):
    architecture = tiny_architecture(dimensions, 3)
    architecture = architecture.of_another_form() if residual else architecture
    plain, guided = architecture(), with_text_guidance(architecture)
    image = torch.randn(2, 1, *[16] * dimensions)
    assert [scale.shape for scale in guided(image)] == [scale.shape for scale in plain(image)]
    sum(scale.square().mean() for scale in guided(image)).backward()
    assert all(parameter.grad is not None for parameter in guided.parameters())
    names, added = set(plain.state_dict()), set(guided.state_dict()) - set(plain.state_dict())
    assert names <= set(guided.state_dict()) and {name.partition(".")[0] for name in added} == {"guidance"}
    guided.decoder.deep_supervision = False
    assert guided(image).shape == (2, 3, *[16] * dimensions)


@pytest.mark.parametrize(
    ("patch", "places"),
    [((112, 112, 80), 245), ((96, 96, 96), 216), ((128, 128, 64), 256), ((160, 160, 32), 200)],
)
def test_there_is_a_prompt_for_each_voxel_of_the_deepest_features(patch, places):
    arguments = tiny_architecture(3, 2).arguments | {
        "n_stages": 5, "features_per_stage": (2, 2, 2, 2, 2), "strides": (1, 2, 2, 2, 2),
        "n_conv_per_stage": [1] * 5, "n_conv_per_stage_decoder": [1] * 4,
    }  # fmt: skip
    network = with_text_guidance(replace(tiny_architecture(3, 2), arguments=arguments, patch_size=patch))
    assert network.guidance.prompts.adapter.weight.shape == (places, 768)
    assert network.guidance.prompts().shape == (2, places)


def test_unequal_strides_and_sizes_that_they_do_not_divide():
    architecture = replace(tiny_architecture(3, 2), patch_size=(7, 16, 20))
    strides = {"strides": ((1, 1, 1), (1, 2, 2), (2, 2, 2))}
    network = with_text_guidance(replace(architecture, arguments=architecture.arguments | strides))
    assert network.guidance.fusion.grid == (4, 4, 5)
    assert network.encoder(torch.randn(1, 1, 7, 16, 20))[-1].shape[2:] == (4, 4, 5)


@pytest.mark.parametrize(("features", "parameters"), [(256, 198_657), (320, 309_761)])
@pytest.mark.parametrize("conv_op", [nn.Conv2d, nn.Conv3d])
def test_parameters_of_the_fusion(conv_op, features, parameters):
    grid = (3,) * (2 if conv_op is nn.Conv2d else 3)
    fusion = TextVisionFusion(2, features, grid, conv_op)
    assert sum(parameter.numel() for parameter in fusion.parameters()) == parameters


def test_the_gate_has_one_factor_for_each_voxel_whose_mean_before_the_sigmoid_is_0():
    torch.manual_seed(0)
    fusion = TextVisionFusion(3, 8, (4, 4, 2), nn.Conv3d)
    v, c = torch.randn(2, 8, 4, 4, 2), fusion.cube(torch.randn(3, 32)).expand(2, -1, -1, -1, -1)
    opened, out = fusion.opened(v, c), fusion(v, c)
    assert opened.shape == (2, 1, 4, 4, 2) and out.shape == v.shape
    torch.testing.assert_close(opened.mean((2, 3, 4)), torch.zeros(2, 1), atol=1e-6, rtol=0)
    psi = opened.sigmoid()
    assert 0 < psi.min() < psi.max() < 1
    mixed = F.leaky_relu(F.instance_norm(fusion.m(torch.cat((v, c), 1))))
    torch.testing.assert_close(out, psi * mixed)


def test_a_place_of_the_map_is_made_of_the_prompts_of_that_place():
    torch.manual_seed(0)
    fusion = TextVisionFusion(3, 8, (2, 3), nn.Conv2d)
    prompts = torch.randn(3, 6)
    changed = prompts.clone()
    changed[:, 4] += 1  # row 1, column 1
    differ = (fusion.cube(prompts) != fusion.cube(changed)).any(1)[0]
    assert differ.nonzero().tolist() == [[1, 1]]


def test_text_is_a_start_and_no_more():
    """(t, E) and (0, t + E) are one network: whatever the text, the learned part can be what the two are together."""
    torch.manual_seed(0)
    guidance = TextGuidance(3, 8, (4, 4), nn.Conv2d)
    deep = torch.randn(2, 8, 4, 4)
    before = guidance(deep)
    with torch.no_grad():
        guidance.prompts.shift += guidance.prompts.text
        guidance.prompts.text.zero_()
    assert torch.equal(guidance(deep), before)


def test_half_of_the_patches_teach_and_all_are_guided_alike():
    torch.manual_seed(0)
    guidance = TextGuidance(3, 8, (4, 4), nn.Conv2d)
    deep = torch.randn(4, 8, 4, 4)
    expected = guidance(deep)
    for taught in (0, 1, 4, 9):
        guidance.taught = taught
        assert torch.equal(guidance(deep), expected)
    guidance.taught = 0
    assert torch.equal(guidance.eval()(deep), expected)


def test_the_tap_gives_what_the_decoder_reads():
    net = Net(with_text_guidance(tiny_architecture(2, 3)), None)
    net.tap("skips", "guided", "bottleneck")
    features = net(torch.randn(2, 1, 16, 16)).features
    assert torch.equal(features["skips"][-1], features["bottleneck"])
    torch.testing.assert_close(features["guided"], net.module.guidance(features["bottleneck"]))
    with pytest.raises(NotImplementedError, match="no guidance"):
        Net(tiny_architecture(2, 3)(), None).tap("guided")


def test_a_network_of_the_trainers_own_and_a_single_deepest_voxel_are_refused():
    with pytest.raises(NotImplementedError, match="U-Net of nnU-Net's plans"):
        with_text_guidance(replace(tiny_architecture(2, 3), own=nn.Identity))
    with pytest.raises(NotImplementedError, match=r"\[4, 4\] are a single voxel"):
        with_text_guidance(replace(tiny_architecture(2, 3), patch_size=(4, 4)))
