"""Methods with the student, a second network and further decoders really compiled, as nnU-Net has it on a GPU."""

from dataclasses import replace

import pytest
import torch
from tiny_steps import batches, gradients, optimizers_of, ready
from torch._dynamo.utils import counters
from workbench import tiny_architecture

from nnunet_ssl.method import Now
from nnunet_ssl.methods.generic_ssl import GenericSSL
from nnunet_ssl.methods.lg_ssl import LGSSL
from nnunet_ssl.methods.mc_net import MCNetPlus
from nnunet_ssl.methods.mcf import MCF
from nnunet_ssl.methods.ss_net import SSNet
from nnunet_ssl.methods.tac import TAC


def two_stages(dimensions, channels, seed=5):
    """A network with half of the kernels to compile."""
    architecture = tiny_architecture(dimensions, channels, seed)
    fewer = {"n_stages": 2, "features_per_stage": (4, 6), "strides": (1, 2)}
    return replace(architecture, arguments=architecture.arguments | fewer)


def two_steps(method, compiled):
    """The terms and the gradients of two steps, by name, and how many graphs there were after each."""
    torch.compiler.reset()
    counters.clear()
    net, made = ready(method, 2, 3, False, architecture=two_stages, compiled=compiled)
    made.task = replace(made.task, scale_weights=(1.0,))  # that network has but one
    optimizers, found, graphs = optimizers_of(net, made), [], []
    for step in (0, 1):
        torch.manual_seed(step)
        now = Now(step, 0, 0.3 + step / 100)
        for optimizer in optimizers:
            optimizer.zero_grad()
        labeled, unlabeled = batches(2, 3, False, seed=step)
        labeled = replace(labeled, target=next(labeled.target.by_scale()))
        terms = made.losses(net, labeled, unlabeled, now)
        sum(terms.values()).backward()
        own = {name: p.grad.clone() for name, p in made.named_parameters() if p.grad is not None}
        found.append(({name: term.detach() for name, term in terms.items()}, gradients(net), own))
        for optimizer in optimizers:
            optimizer.step()
        made.after_step(net, now)
        graphs.append(counters["stats"]["unique_graphs"])
    return found, graphs


@pytest.mark.slow  # half a minute each
@pytest.mark.parametrize(
    ("method", "networks"),
    [
        pytest.param(SSNet, 1, id="SSNet: features of a tap and a memory"),
        pytest.param(MCNetPlus, 3, id="MCNetPlus: further decoders on tapped features"),
        pytest.param(MCF, 2, id="MCF: a second network, of another form"),
        pytest.param(TAC, 1, id="TAC: gates in the skips"),
        pytest.param(LGSSL, 2, id="LGSSL: guidance that learns from a part of the batch"),
        pytest.param(GenericSSL, 5, id="GenericSSL: decoders with passes of the encoder of their own"),
    ],
)
def test_compiled_by_inductor_it_trains_as_it_does_otherwise(method, networks, inductor):
    expected, _ = two_steps(method, compiled=False)
    found, graphs = two_steps(method, compiled=True)
    assert graphs == [networks, networks]  # each is one graph, and the second step makes no new one
    assert any(inductor.rglob("*.so"))
    for step_found, step_expected in zip(found, expected, strict=True):
        for values, wanted in zip(step_found, step_expected, strict=True):
            assert values.keys() == wanted.keys()
            largest = max((float(value.abs().max()) for value in wanted.values()), default=0.0)  # none of its own
            for name, value in wanted.items():
                torch.testing.assert_close(values[name], value, rtol=1e-3, atol=1e-5 * largest, msg=name)
