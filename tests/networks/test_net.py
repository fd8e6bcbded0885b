"""Several batches, one forward, and outputs that know their scales."""

import torch
from workbench import kind
from workbench import output as output_of

from nnunet_ssl.networks.net import Net, set_deep_supervision, unwrap


def test_two_batches_make_one_forward_and_the_same_outputs_as_two(tiny_net):
    net = tiny_net(2, 3)
    calls = []
    net.network.register_forward_hook(lambda *args: calls.append(1))
    a, b = torch.randn(2, 1, 16, 16), torch.randn(3, 1, 16, 16)
    first, second = net(a, b)
    assert len(calls) == 1
    assert [len(scale) for scale in first.pyramid] == [2, 2]
    assert [scale.shape[-1] for scale in second.pyramid] == [16, 8]
    torch.testing.assert_close(first.logits, net(a).logits)
    torch.testing.assert_close(second.logits, net(b).logits)


def test_probabilities_are_float32_softmax_or_sigmoid():
    logits = torch.randn(2, 3, 4, 4, dtype=torch.bfloat16)
    classes, regions = output_of(logits).probs, output_of(logits, True).probs
    assert classes.dtype == regions.dtype == torch.float32
    torch.testing.assert_close(classes.sum(1), torch.ones(2, 4, 4))
    torch.testing.assert_close(regions, logits.float().sigmoid())


def test_the_plain_network_is_found_below_compile(tiny_net):
    plain = tiny_net().network
    assert unwrap(torch.compile(plain)) is plain
    assert Net(torch.compile(plain), kind(2)).module is plain


def test_deep_supervision_switches_outputs_not_weights(tiny_net):
    net = tiny_net()
    names = list(net.module.state_dict())
    set_deep_supervision(net.network, False)
    assert len(net(torch.randn(1, 1, 16, 16)).pyramid) == 1
    assert list(net.module.state_dict()) == names
