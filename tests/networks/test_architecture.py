"""Networks of the plan, and their counterparts with other blocks."""

from dataclasses import replace

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from workbench import tiny_architecture, tiny_network

from nnunet_ssl.networks.architecture import Architecture


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_counterpart_has_the_scales_of_the_plan_and_its_own_is_the_plans_kind(dimensions):
    plain = tiny_architecture(dimensions, 3)
    image = torch.randn(2, 1, *[16] * dimensions)
    residual = plain.of_another_form()
    assert isinstance(plain(), PlainConvUNet) and isinstance(residual(), ResidualEncoderUNet)
    assert [scale.shape for scale in residual()(image)] == [scale.shape for scale in plain()(image)]
    assert residual.arguments["n_blocks_per_stage"] == [1, 3, 4]
    assert isinstance(residual.of_another_form()(), PlainConvUNet)


def test_deep_networks_repeat_the_last_number_of_blocks():
    plain = tiny_architecture(2, 3)
    deep = replace(plain, arguments=plain.arguments | {"n_stages": 6}).of_another_form()
    assert deep.arguments["n_blocks_per_stage"] == [1, 3, 4, 6, 6, 6]
    assert "n_conv_per_stage" not in deep.arguments


def test_each_call_draws_weights_of_its_own():
    plain = tiny_architecture(2, 3)
    dotted = plain.arguments | {"conv_op": "torch.nn.Conv2d", "norm_op": None, "nonlin": "torch.nn.ReLU"}
    architecture = Architecture(plain.network_class, dotted, ("conv_op", "norm_op", "nonlin"), 1, 3)
    first, second = architecture(), architecture()
    assert not torch.equal(next(first.parameters()), next(second.parameters()))


def test_other_networks_have_no_counterpart():
    with pytest.raises(NotImplementedError, match="VNet has no counterpart"):
        replace(tiny_architecture(2, 3), network_class="nnunet_ssl.networks.backbones.VNet").of_another_form()
    with pytest.raises(NotImplementedError, match="A network of the trainer's own has no counterpart"):
        replace(tiny_architecture(2, 3), own=lambda: tiny_network(2, 3)).of_another_form()


def test_more_channels_of_the_image_change_the_first_layer_alone():
    planned = tiny_architecture(3, 2, input_channels=2)
    narrow, wide = planned().state_dict(), planned.with_further_input(5)().state_dict()
    other = [name for name, value in wide.items() if value.shape != narrow[name].shape]
    assert {name.split(".convs.0.")[-1] for name in other} == {"conv.weight", "all_modules.0.weight"}
    assert all("stages.0.0." in name for name in other)
    assert wide["encoder.stages.0.0.convs.0.conv.weight"].shape[1] == 7
    with pytest.raises(NotImplementedError, match="of the trainer's own"):
        replace(planned, own=planned).with_further_input(5)
