"""Decoders that read the features of an encoder which is not theirs."""

import pytest
import torch
from torch import nn

from nnunet_ssl.networks.decoders import UPSAMPLINGS, further_decoder


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_decoder_by_itself_predicts_like_its_network_and_uses_all_its_parameters(tiny_net, dimensions):
    network = tiny_net(dimensions).module
    image = torch.randn(2, 1, *[16] * dimensions)
    skips, expected = [skip.detach() for skip in network.encoder(image)], network(image)[0]
    decoder = further_decoder(network)
    logits = decoder(skips)
    assert torch.equal(logits, expected)
    assert not any(name.startswith("encoder") for name in decoder.state_dict())
    logits.square().mean().backward()
    assert all(parameter.grad is not None for parameter in decoder.parameters())


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
def test_every_upsampling_gives_all_scales_of_the_plan(tiny_net, dimensions, upsampling):
    network = tiny_net(dimensions, 3).module
    skips = [skip.detach() for skip in network.encoder(torch.randn(2, 1, *[16] * dimensions))]
    decoder = further_decoder(network, upsampling, scales=True)
    scales = decoder(skips)
    assert [scale.shape for scale in scales] == [(2, 3, *[16] * dimensions), (2, 3, *[8] * dimensions)]
    sum(scale.square().mean() for scale in scales).backward()
    assert all(parameter.grad is not None for parameter in decoder.parameters())


def test_interpolation_goes_up_by_the_strides_of_the_plan():
    transposed = nn.ConvTranspose3d(4, 2, (1, 2, 2), (1, 2, 2), bias=False)
    network = nn.Module()
    network.encoder, network.decoder = nn.Identity(), nn.Module()
    network.decoder.seg_layers = nn.ModuleList([nn.Identity()])
    for upsampling in ("linear", "nearest"):
        network.decoder.transpconvs = nn.ModuleList([transposed])
        network.decoder.encoder = network.encoder
        convolution, up = further_decoder(network, upsampling).transpconvs[0]
        convolution.weight.data[:] = 0.25  # the mean over channels
        assert convolution.bias is None
        image = torch.arange(8.0).view(1, 1, 2, 2, 2).expand(1, 4, 2, 2, 2)
        result = up(convolution(image))
        assert result.shape == (1, 2, 2, 4, 4)
        # corners keep their values either way
        torch.testing.assert_close(result[0, 0, :, ::3, ::3], image[0, 0])


def test_what_has_no_decoder_is_refused_with_a_reason(tiny_net):
    with pytest.raises(NotImplementedError, match="Linear has no encoder"):
        further_decoder(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="upsampling = 'cubic' must be one of transposed, linear, nearest"):
        further_decoder(tiny_net().module, "cubic")
