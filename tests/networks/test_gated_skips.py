"""Attention gates in the skips of the plan's networks."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from workbench import tiny_architecture, tiny_network

from nnunet_ssl.networks.architecture import UNETS
from nnunet_ssl.networks.gated_skips import Gate, with_gated_skips
from nnunet_ssl.networks.net import Net


def of_plan(architecture, **changes):
    return with_gated_skips(replace(architecture, arguments=architecture.arguments | changes))


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_any_u_net_of_nnunets_plans_gets_a_gate_in_each_skip(dimensions, residual):
    architecture = tiny_architecture(dimensions, 3)
    architecture = architecture.of_another_form() if residual else architecture
    plain, gated = architecture(), with_gated_skips(architecture)
    image = torch.randn(2, 1, *[16] * dimensions)
    assert [scale.shape for scale in gated(image)] == [scale.shape for scale in plain(image)]
    sum(scale.square().mean() for scale in gated(image)).backward()
    assert all(parameter.grad is not None for parameter in gated.parameters())
    names, added = set(plain.state_dict()), set(gated.state_dict()) - set(plain.state_dict())
    assert names <= set(gated.state_dict()) and {name.split(".")[1] for name in added} == {"gates"}
    gated.decoder.deep_supervision = False
    assert gated(image).shape == (2, 3, *[16] * dimensions)


def test_gates_have_half_of_the_features_of_their_skip_and_32_at_full_resolution():
    network = of_plan(tiny_architecture(3, 2), n_stages=5, features_per_stage=(16, 32, 64, 128, 256),
                      strides=(1, 2, 2, 2, 2), n_conv_per_stage=[1] * 5, n_conv_per_stage_decoder=[1] * 4)  # fmt: skip
    sizes = [(gate.a[0].in_channels, gate.a[0].out_channels) for gate in network.decoder.gates]
    assert sizes == [(128, 64), (64, 32), (32, 16), (16, 32)]
    assert all(gate.b[0].weight.shape == gate.a[0].weight.shape for gate in network.decoder.gates)
    assert all(gate.psi[0].out_channels == 1 for gate in network.decoder.gates)


def test_unequal_strides():
    network = of_plan(tiny_architecture(3, 2), strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)))
    assert [scale.shape[2:] for scale in network(torch.randn(1, 1, 8, 16, 16))] == [(8, 16, 16), (8, 8, 8)]


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_gate_without_weights_lets_half_through(dimensions):
    gate = Gate(tiny_network(dimensions, 2).encoder, 4, 2)
    nn.init.zeros_(gate.psi[0].weight)
    g, x = torch.randn(2, 3, 4, *[8] * dimensions)
    torch.testing.assert_close(gate(g, x), 0.5 * x)


def test_the_gate_is_one_factor_for_all_features_of_a_voxel_and_reads_both():
    """By hand, without norms: a = 2 g, b = x - 1, psi = 3 relu(a + b) - 3."""
    encoder = copy.copy(tiny_network(2, 2).encoder)
    encoder.norm_op = None
    gate = Gate(encoder, 1, 1)
    for layer, (weight, bias) in zip((gate.a, gate.b, gate.psi), ((2, 0), (1, -1), (3, -3)), strict=True):
        nn.init.constant_(layer[0].weight, weight)
        nn.init.constant_(layer[0].bias, bias)
    g, x = (torch.tensor(values).view(1, 1, 1, 3) for values in ([0.5, -1.0, 0.0], [1.0, 2.0, 3.0]))
    opened = torch.sigmoid(torch.tensor([0.0, -3.0, 3.0]))  # relu: 1, 0, 2
    torch.testing.assert_close(gate(g, x).flatten(), x.flatten() * opened)


def test_features_inside_of_a_gate_are_not_kept_for_the_backward_pass():
    gate, kept = Gate(tiny_network(2, 2).encoder, 4, 32), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.shape) or tensor, lambda x: x):
        gate(*torch.randn(2, 3, 4, 8, 8, requires_grad=True)).sum().backward()
    assert kept and (3, 32, 8, 8) not in kept
    assert all(parameter.grad is not None for parameter in gate.parameters())


def test_what_the_decoder_reads_is_the_tap(tiny_net):
    net = Net(with_gated_skips(tiny_architecture(2, 2)), tiny_net().kind)
    read = []
    for stage in net.module.decoder.stages:
        stage.register_forward_pre_hook(lambda stage, args: read.append(args[0]))
    net.tap("skips", "gated")
    features = net(torch.randn(3, 1, 16, 16)).features
    assert [each.shape for each in features["gated"]] == [(3, 4, 16, 16), (3, 6, 8, 8)]
    for gated, skip, joined in zip(features["gated"], features["skips"], read[::-1], strict=False):
        torch.testing.assert_close(joined[:, gated.shape[1] :], gated)
        factor = gated / skip
        torch.testing.assert_close(factor, factor[:, :1].expand_as(factor), atol=1e-4, rtol=1e-3)
        assert factor.min() > 0 and factor.max() < 1


def test_what_has_no_skips_of_a_plan_is_refused(tiny_net):
    with pytest.raises(NotImplementedError, match=r"trainer's own.*U-Net"):
        with_gated_skips(replace(tiny_architecture(2, 2), own=lambda: tiny_network(2, 2)))
    with pytest.raises(NotImplementedError, match="Linear has no encoder"):
        with_gated_skips(lambda_architecture())
    with pytest.raises(NotImplementedError, match="PlainConvUNet has no gated skips"):
        tiny_net().tap("gated")


def lambda_architecture():
    class Other(type(tiny_architecture(2, 2))):
        def __call__(self):
            return nn.Linear(2, 2)

    return Other(UNETS + "Other", {}, (), 1, 2)
