"""A U-Net that shares the encoder of another one and is told the time."""

from dataclasses import replace

import pytest
import torch
from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder
from workbench import tiny_architecture

from nnunet_ssl.networks.decoders import further_decoder
from nnunet_ssl.networks.denoiser import Denoiser, DenoisingPath, Fusions, PlainPath, encode

BLOCKS = (1, 3, 2)


def planned(dimensions=2, residual=False, blocks=BLOCKS, strides=None, image=1):
    """Three stages; anisotropic where strides say so."""
    made = tiny_architecture(dimensions, 3, seed=0, input_channels=image)
    made = made.of_another_form() if residual else made
    depth = "n_blocks_per_stage" if residual else "n_conv_per_stage"
    changed = {depth: blocks, "n_conv_per_stage_decoder": blocks[:-1]} | ({"strides": strides} if strides else {})
    return replace(made, arguments=made.arguments | changed)


def paths(architecture):
    network = architecture()
    denoiser = Denoiser(replace(architecture, seed=7))
    return network, denoiser, DenoisingPath(network.encoder, denoiser)


def silence(denoiser):
    """Takes the time out."""
    for fusion in denoiser.modules():
        if isinstance(fusion, torch.nn.Linear) and fusion.out_features != 512:
            torch.nn.init.zeros_(fusion.weight)
            torch.nn.init.zeros_(fusion.bias)


FORMS = pytest.mark.parametrize(
    ("dimensions", "residual", "blocks", "strides"),
    [
        pytest.param(2, False, (1, 1, 1), None, id="2d, one block a stage"),
        pytest.param(2, True, BLOCKS, None, id="2d, residual"),
        pytest.param(3, False, (2, 2, 2), None, id="3d"),
        pytest.param(3, False, (2, 2, 2), ((1, 1, 1), (1, 2, 2), (2, 2, 1)), id="3d, anisotropic"),
        pytest.param(3, True, (1, 3, 4), ((1, 1, 1), (1, 2, 2), (2, 2, 2)), id="3d, residual, anisotropic"),
    ],
)


@FORMS
def test_without_its_time_it_is_the_plans_network_with_a_wider_first_layer(dimensions, residual, blocks, strides):
    architecture = planned(dimensions, residual, blocks, strides)
    network, denoiser, path = paths(architecture)
    silence(denoiser)
    wide = architecture.with_further_input(3)()
    shapes = {name: value.shape for name, value in wide.state_dict().items()}
    shared = {name: value for name, value in network.state_dict().items() if value.shape == shapes[name]}
    wide.load_state_dict(shared, strict=False)
    stem = wide.encoder.stem if residual else wide.encoder.stages[0][0].convs[0]
    stem.load_state_dict(denoiser.stem.state_dict())
    wide.decoder.load_state_dict(denoiser.decoder.state_dict(), strict=False)
    image, noisy = torch.randn(2, 1, *[16] * dimensions), torch.randn(2, 3, *[16] * dimensions)
    expected = wide(torch.cat((image, noisy), 1))
    found = path(image, noisy, torch.tensor([3, 700]))
    assert [scale.shape for scale in found] == [scale.shape for scale in expected] and len(found) == 2
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.equal(mine, theirs)


@FORMS
def test_an_encoder_is_read_as_it_reads_itself_and_without_its_hooks(dimensions, residual, blocks, strides):
    network, calls = planned(dimensions, residual, blocks, strides)(), []
    image = torch.randn(2, 1, *[16] * dimensions)
    expected = network.encoder(image)
    network.encoder.register_forward_hook(lambda *_: calls.append(1))
    skips = encode(network.encoder, image)
    assert not calls and all(map(torch.equal, skips, expected))
    decoder = further_decoder(planned(dimensions, residual, blocks, strides)())
    path = PlainPath(network.encoder, decoder)
    assert torch.equal(path(image), decoder(expected)) and torch.equal(path(expected), decoder(expected))


@pytest.mark.parametrize(
    ("residual", "blocks", "down", "stages"),
    [
        (False, (2, 2, 2), [["0"], ["0"], ["0"]], [["0"], ["0"]]),
        (False, (1, 1, 1), [[], ["0"], ["0"]], [[], []]),
        (True, (1, 3, 4), [[], ["0", "1"], ["0", "1", "2"]], [[], ["0", "1"]]),
    ],
)
def test_where_the_time_enters(residual, blocks, down, stages):
    """Behind each block but the last, behind the first of a stage that goes down, and behind each way up."""
    denoiser = Denoiser(planned(residual=residual, blocks=blocks))
    assert [sorted(each) for each in denoiser.down] == down
    assert [sorted(each) for each in denoiser.stages] == stages
    assert [layer.out_features for layer in denoiser.up] == [6, 4]
    assert {layer.in_features for each in denoiser.down for layer in each.values()} == {512}
    assert [layer.in_features for layer in denoiser.time if hasattr(layer, "in_features")] == [128, 512]


def test_a_pooling_before_the_blocks_of_a_stage_is_none_of_them():
    arguments = planned(blocks=(2, 2, 2)).arguments
    keys = ("n_stages", "features_per_stage", "conv_op", "kernel_sizes", "strides", "n_conv_per_stage")
    stages = PlainConvEncoder(1, **{key: arguments[key] for key in keys}, pool="max").stages
    assert [sorted(Fusions(stage, number > 0)) for number, stage in enumerate(stages)] == [["0"], ["1"], ["1"]]


@FORMS
def test_all_its_parameters_learn_and_the_encoders_but_its_first_layer(dimensions, residual, blocks, strides):
    network, denoiser, path = paths(planned(dimensions, residual, blocks, strides))
    image, noisy = torch.randn(2, 1, *[16] * dimensions), torch.randn(2, 3, *[16] * dimensions)
    sum(scale.square().mean() for scale in path(image, noisy, torch.tensor([3, 700]))).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in denoiser.parameters())
    stem = network.encoder.stem if residual else network.encoder.stages[0][0].convs[0]
    stems = {id(parameter) for parameter in stem.parameters()}
    for parameter in network.encoder.parameters():
        assert (parameter.grad is None) == (id(parameter) in stems)
    decoder = [p for name, p in network.decoder.named_parameters() if not name.startswith("encoder")]
    assert decoder and all(parameter.grad is None for parameter in decoder)
    assert not any(name.startswith("encoder") for name in denoiser.state_dict())


def test_the_time_of_each_sample_shifts_what_it_says():
    _, _, path = paths(planned(blocks=(2, 2, 2)))
    image, noisy = torch.randn(1, 1, 16, 16).expand(3, -1, -1, -1), torch.randn(1, 3, 16, 16).expand(3, -1, -1, -1)
    first, second, third = path(image, noisy, torch.tensor([5, 5, 900]))[0]
    torch.testing.assert_close(first, second)
    assert (first - third).abs().max() > 1e-3


def test_channels_of_the_image_are_those_of_the_plan():
    denoiser = Denoiser(planned(image=2))
    assert denoiser.stem.conv.in_channels == 2 + 3


def test_what_is_no_u_net_is_refused_with_a_reason():
    own = replace(planned(), own=lambda: torch.nn.Linear(2, 2))
    with pytest.raises(NotImplementedError, match="of the trainer's own .* U-Net of nnU-Net's plans"):
        Denoiser(own)
