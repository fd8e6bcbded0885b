"""Compiled networks of one architecture keep their own hooks, in whatever order they are made and run."""

import torch

from nnunet_ssl.networks.hooks import let_compile_see_hooks


def test_a_compiled_network_runs_with_its_own_hooks_only(tiny_net):
    image = torch.randn(2, 1, 16, 16)
    plain, hooked = tiny_net().module, tiny_net().module
    compiled = [torch.compile(network, backend="aot_eager") for network in (plain, hooked)]
    expected = plain(image)[0]
    for network in compiled:
        torch.testing.assert_close(network(image)[0], expected)
    hooked.encoder.stages[0].register_forward_hook(lambda module, args, out: out + 1)
    let_compile_see_hooks()
    for _ in range(2):
        torch.testing.assert_close(compiled[0](image)[0], expected)
        assert not torch.allclose(compiled[1](image)[0], expected)
        torch.testing.assert_close(compiled[1](image)[0], hooked(image)[0])
