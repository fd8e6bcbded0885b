"""Features of the student's own forward."""

import copy

import pytest
import torch
from torch import nn
from workbench import kind

from nnunet_ssl.networks.net import Net
from nnunet_ssl.networks.taps import TAPS, Taps

OF_PLANS = [name for name in TAPS if name not in ("gated", "guided")]  # of the plan's own networks


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_features_are_those_of_the_forward_and_carry_its_gradient(tiny_net, dimensions, compiled):
    net, plain = tiny_net(dimensions), tiny_net(dimensions).module
    read = {}
    for index, head in enumerate(plain.decoder.seg_layers):
        head.register_forward_pre_hook(lambda head, args, index=index: read.update({index: args[0]}))
    net.tap(*OF_PLANS)
    assert list(net.module.state_dict()) == list(plain.state_dict())
    if compiled:
        net.network = torch.compile(net.network, backend="aot_eager")
    for seed in (0, 1):  # no features of an earlier forward
        torch.manual_seed(seed)
        a, b = torch.randn(2, 2, 1, *[16] * dimensions)
        plain.zero_grad()
        net.module.zero_grad()
        first, second = net(a, b)
        assert net.taps.take() == {}
        read.clear()
        skips = plain.encoder(torch.cat((a, b)))
        plain.decoder(skips)
        expected = {"skips": skips, "bottleneck": skips[-1], "decoder": [read[1], read[0]], "head": read[1]}
        for name, value in expected.items():
            for half, output in enumerate((first, second)):
                mine = output.features[name]
                pairs = [(mine, value)] if isinstance(value, torch.Tensor) else zip(mine, value, strict=True)
                for mine, theirs in pairs:
                    torch.testing.assert_close(mine, theirs[2 * half : 2 * half + 2])
        (first.features["head"].square().mean() + second.features["bottleneck"].square().mean()).backward()
        (read[1][:2].square().mean() + skips[-1][2:].square().mean()).backward()
        for mine, theirs in zip(net.module.encoder.parameters(), plain.encoder.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, theirs.grad)


def test_full_resolution_comes_first(tiny_net):
    net = tiny_net()
    net.tap("skips", "decoder")
    features = net(torch.randn(3, 1, 16, 16)).features
    assert [each.shape for each in features["skips"]] == [(3, 4, 16, 16), (3, 6, 8, 8), (3, 8, 4, 4)]
    assert [each.shape for each in features["decoder"]] == [(3, 4, 16, 16), (3, 6, 8, 8)]


def test_nothing_is_kept_untapped_in_evaluation_mode_or_by_copies(tiny_net):
    net = tiny_net()
    assert net(torch.randn(1, 1, 16, 16)).features == {}
    net.tap("head")
    twin = copy.deepcopy(net.module).eval()
    twin(torch.randn(1, 1, 16, 16))
    assert net.taps.take() == {}
    net.module.eval()
    assert net(torch.randn(1, 1, 16, 16)).features == {}


def test_a_prediction_leaves_no_features_for_the_next_forward(tiny_net):
    net = tiny_net()
    net.tap("decoder")
    net.predict(torch.randn(1, 1, 16, 16))
    assert len(net(torch.randn(1, 1, 16, 16)).features["decoder"]) == 2


def test_what_cannot_be_tapped_is_refused_with_a_reason(tiny_net):
    with pytest.raises(NotImplementedError, match="Linear has no encoder"):
        Net(nn.Linear(2, 2), kind(2)).tap("head")
    with pytest.raises(ValueError, match="no tap 'foot': known are skips, bottleneck, decoder, head, gated"):
        Taps(tiny_net().module, ("foot",))
