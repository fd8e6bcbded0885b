"""CPS against its closed forms."""

import pytest
import torch
from workbench import output as output_of

from nnunet_ssl.methods.cps import CPS
from nnunet_ssl.networks.net import Output


def output(*logits, regions=False) -> Output:
    return output_of(torch.tensor(logits).view(1, -1, 1, 1).requires_grad_(), regions)


def test_cross_terms_and_their_gradient():
    first, second = output(2.0, 0.0), output(0.0, 1.0)
    method = CPS()
    loss = method.cross(first, second)
    assert loss.item() == pytest.approx(2.126928 + 1.313262, abs=1e-6)
    assert method.report["agreement"] == 0
    loss.backward()
    torch.testing.assert_close(first.logits.grad.flatten(), torch.tensor([0.880797, -0.880797]), atol=1e-6, rtol=0)
    torch.testing.assert_close(second.logits.grad.flatten(), torch.tensor([-0.731059, 0.731059]), atol=1e-6, rtol=0)


def test_agreeing_networks():
    assert CPS().cross(output(20.0, 0.0), output(20.0, 0.0)).item() < 1e-8
    assert CPS().cross(output(1.0, 0.0), output(1.0, 0.0)).item() == pytest.approx(0.626523, abs=1e-6)


def test_swapping_the_networks_changes_nothing_and_a_tie_is_class_zero():
    first, second = output(2.0, 0.5), output(-1.0, 1.0)
    assert CPS().cross(first, second).item() == CPS().cross(second, first).item()
    tied = CPS().cross(output(3.0, 0.0), output(0.0, 0.0))
    assert tied.item() == pytest.approx(0.048587 + 0.693147, abs=1e-6)


def test_regions_are_binary():
    loss = CPS().cross(output(2.0, regions=True), output(-1.0, regions=True))
    assert loss.item() == pytest.approx(2.126928 + 1.313262, abs=1e-6)


def test_the_networks_differ_at_the_start_and_share_nothing(tiny_net):
    net, method = tiny_net(3, 2), CPS()
    method.setup(net, lambda: tiny_net(3, 2, seed=9).module)
    student = dict(net.module.named_parameters())
    twin = dict(method.twin.named_parameters())
    assert student.keys() == twin.keys()
    assert any(not torch.equal(student[name], twin[name]) for name in student)
    assert {p.data_ptr() for p in student.values()}.isdisjoint(p.data_ptr() for p in twin.values())
    assert method.deployed(net) is net.module


@pytest.mark.parametrize("wrong", [{"weight": -1.0}, {"rampup": 2.0}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CPS(**wrong)
