"""CAML's step: its weights, who learns from what, and its memory."""

import pytest
import torch
from tiny_steps import batches, copied, nnunet_loss, ready
from workbench import tiny_network

from nnunet_ssl.losses.supervised import Supervised
from nnunet_ssl.method import Now
from nnunet_ssl.methods.caml import CAML

STEPS = 15000  # of the authors' runs


def now(fraction, step=9):
    return Now(step=step, epoch=0, fraction=fraction)


def terms(fraction=1.0, dimensions=2, **arguments):
    net, method = ready(CAML, dimensions, 3, False, **{"dropout": 0.0} | arguments)
    return method.losses(net, *batches(dimensions, 3, False), now(fraction)), net, method


@pytest.mark.parametrize(
    ("iteration", "rampup", "consistency", "correlation"),
    [(3000, 0.4, 0.286505, 0.014325), (3000, 0.2, 1, 0.05), (2250, 0.15, 1, 0.05), (2249, 0.15, 0.999999, 0.05)],
)
def test_weights_are_those_of_the_authors_runs(iteration, rampup, consistency, correlation):
    """Of L = 40, 20 and 15 times 150 of 15000 iterations."""
    method = CAML(rampup=rampup)
    weight = method.ramped_weight(now(iteration / STEPS))
    assert weight == pytest.approx(consistency, abs=1e-6)
    assert weight * method.omega == pytest.approx(correlation, abs=1e-6)
    assert method.omega * CAML(rampup=0.0).ramped_weight(now(0.0)) == 0.05


def test_terms_carry_their_weights():
    full, *_ = terms()
    half, *_ = terms(weight=0.5, supervised_weight=0.25)
    for name, value in full.items():
        torch.testing.assert_close(half[name], value / 2)
    assert full["correlation"] > 0
    other, *_ = terms(correlation=0.1)
    torch.testing.assert_close(other["correlation"], 2 * full["correlation"])
    torch.testing.assert_close(other["consistency"], full["consistency"])


@pytest.mark.parametrize("dimensions", [2, 3])
def test_who_learns_from_what(dimensions):
    found, net, method = terms(dimensions=dimensions)
    heads = list(method.correlations.parameters())
    for name, student, twin, projections in (
        ("supervised", True, False, False),
        ("supervised_twin", False, True, False),
        ("consistency", True, True, False),
        ("correlation", True, True, True),
    ):
        groups = [next(net.module.parameters()), next(method.twin.parameters()), heads[0]]
        gradients = torch.autograd.grad(found[name], groups, retain_graph=True, allow_unused=True)
        assert [g is not None and bool(g.any()) for g in gradients] == [student, twin, projections], name


def test_a_step_fills_the_memory_of_its_cases_before_it_relates_to_it():
    found, _, method = terms()
    bank = method.correlations.bank
    assert bank.count[:2].sum() > 0 and bank.count[2:].sum() == 0
    assert found["correlation"] > 0  # in the first step already
    assert terms(memory=100000)[0]["correlation"] == 0


def test_equal_steps_draw_the_same_and_others_do_not():
    net, method = ready(CAML, 2, 3, False, dropout=0.0, memory=4)
    before, losses = copied(dict(method.state_dict())), []
    for step in (3, 3, 4):
        method.load_state_dict(before)
        torch.manual_seed(len(losses))  # the training's own randomness plays no part
        losses.append(method.losses(net, *batches(2, 3, False), now(0.9, step))["correlation"].item())
    assert losses[0] == losses[1] != losses[2]


def test_the_plans_own_network_predicts():
    _, net, method = terms()
    assert method.deployed(net) is net.module
    tiny_network(2, 3, seed=4).load_state_dict(net.module.state_dict())


def test_the_second_network_sees_other_patches():
    """Of V's logits those of an unlabeled patch do not depend on the labeled ones."""
    net, method = ready(CAML, 2, 3, False, dropout=0.0)
    method.supervised = Supervised(nnunet_loss(False), deep_supervision=True)
    labeled, unlabeled = batches(2, 3, False)
    alone, together = unlabeled.weak, torch.cat((labeled.image, unlabeled.weak))
    torch.testing.assert_close(net(together).logits[2:], net(alone).logits)
    assert not torch.allclose(method.second(together).logits[2:], method.second(alone).logits)


@pytest.mark.parametrize(
    "wrong",
    [{"correlation": -1.0}, {"tau": 0.0}, {"memory": 1}, {"max_voxels": 1}, {"dropout": 1.0}, {"temperature": 2.0},
     {"supervised_weight": -1.0}, {"weight": -1.0}, {"rampup": 2.0}],
)  # fmt: skip
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CAML(**wrong)
