"""The encoder's features of the student's own forward, and decoders that read them."""

import pytest
import torch
from torch import nn

from nnunet_ssl.networks.features import EncoderFeatures, auxiliary_decoder


@pytest.mark.parametrize("compiled", [False, True])
def test_features_carry_the_gradient_of_one_encoder_pass(tiny_net, compiled):
    network, plain = tiny_net().module, tiny_net().module
    features = EncoderFeatures(network)
    assert list(network.state_dict()) == list(plain.state_dict())
    run = torch.compile(network, backend="aot_eager") if compiled else network
    for seed in (0, 1):  # no features of an earlier forward
        torch.manual_seed(seed)
        image = torch.randn(3, 1, 16, 16)
        network.zero_grad()
        plain.zero_grad()
        outputs, kept = run(image), features.take()
        assert features.take() is None
        expected = plain.encoder(image)
        assert [skip.shape for skip in kept] == [(3, 4, 16, 16), (3, 6, 8, 8), (3, 8, 4, 4)]
        for skip, other in zip(kept, expected, strict=True):
            torch.testing.assert_close(skip, other)
        (outputs[0].square().mean() + sum(skip.square().mean() for skip in kept)).backward()
        (plain.decoder(expected)[0].square().mean() + sum(skip.square().mean() for skip in expected)).backward()
        for mine, theirs in zip(network.encoder.parameters(), plain.encoder.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, theirs.grad)


def test_nothing_is_kept_in_evaluation_mode(tiny_net):
    network = tiny_net().module.eval()
    features = EncoderFeatures(network)
    network(torch.randn(1, 1, 16, 16))
    assert features.take() is None


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_decoder_by_itself_predicts_like_its_network_and_uses_all_its_parameters(tiny_net, dimensions):
    network = tiny_net(dimensions).module
    image = torch.randn(2, 1, *[16] * dimensions)
    skips, expected = [skip.detach() for skip in network.encoder(image)], network(image)[0]
    decoder = auxiliary_decoder(network)
    logits = decoder(skips)
    assert torch.equal(logits, expected)
    assert not any(name.startswith("encoder") for name in decoder.state_dict())
    logits.square().mean().backward()
    assert all(parameter.grad is not None for parameter in decoder.parameters())


@pytest.mark.parametrize("refuse", [EncoderFeatures, auxiliary_decoder])
def test_other_architectures_are_refused_with_a_reason(refuse):
    with pytest.raises(NotImplementedError, match="Linear has no encoder"):
        refuse(nn.Linear(2, 2))
