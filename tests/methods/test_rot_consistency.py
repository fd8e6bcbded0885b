"""Rotation consistency against its closed forms, and the planes in which it turns."""

import pytest
import torch
from torch import nn
from workbench import kind, task
from workbench import output as output_of

from nnunet_ssl.method import Labeled, Now, Unlabeled
from nnunet_ssl.methods.rot_consistency import RotConsistency, plane_of_turns
from nnunet_ssl.networks.net import Net, Output

END = Now(100, 1, 1.0)


def given(*probs) -> Output:
    """An output of one voxel with these probabilities, which take a gradient."""
    output = output_of(torch.zeros(1, len(probs), 1, 1))
    output.probs = torch.tensor(probs).view(1, -1, 1, 1).requires_grad_()
    return output


def ready(**other) -> RotConsistency:
    method = RotConsistency()
    method.task = task(**other)
    method.setup(None, None)
    method.supervised = lambda output, target: output.logits.sum() * 0
    return method


def test_value_of_the_squared_difference_and_half_its_gradient():
    turned, plain = given(0.880797, 0.119203), given(0.5, 0.5)
    for k in (0, 4):
        turned.probs.grad = plain.probs.grad = None
        loss = ready().consistency(plain, turned, k)
        loss.backward()
        assert loss.item() == pytest.approx(0.145006, abs=1e-6)
        expected = torch.tensor([0.190399, -0.190399])
        torch.testing.assert_close(turned.probs.grad.flatten(), expected, atol=1e-6, rtol=0)
        torch.testing.assert_close(plain.probs.grad.flatten(), -expected, atol=1e-6, rtol=0)


def test_a_turn_and_back():
    image = torch.tensor([[0, 1], [2, 3]]).expand(1, 1, 2, 2)
    plane, _ = plane_of_turns(task())
    turned = torch.rot90(image, 1, plane)
    assert turned[0, 0].tolist() == [[1, 3], [0, 2]]
    assert torch.equal(torch.rot90(turned, -1, plane), image)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_an_equivariant_network_costs_nothing(dimensions, k):
    torch.manual_seed(0)
    method = ready(dimensions=dimensions)
    network = Net({2: nn.Conv2d, 3: nn.Conv3d}[dimensions](1, 3, 1), kind(3))
    image = torch.randn(2, 1, *[8] * dimensions)
    turned = torch.rot90(image, k, method.plane)
    assert method.consistency(network(image), network(turned), k).item() < 1e-12
    if k < 4:
        assert method.consistency(network(image), network(image), k).item() > 1e-3


def test_a_network_that_is_not_equivariant_costs_something_unless_nothing_turns(tiny_net):
    net, method = tiny_net(2, 3), ready(channels=3)
    torch.manual_seed(0)
    image = torch.randn(2, 1, 16, 16)
    for k in (1, 2, 3, 4):
        loss = method.consistency(net(image), net(torch.rot90(image, k, (2, 3))), k).item()
        assert loss == 0 if k == 4 else loss > 1e-6


@pytest.mark.parametrize(("patch", "turns"), [((16, 16), {1, 2, 3, 4}), ((16, 24), {2, 4})])
def test_one_forward_and_every_turn_occurs(monkeypatch, patch, turns):
    method, seen, calls = ready(patch_size=patch), set(), []
    monkeypatch.setattr(method, "consistency", lambda output, turned, k: seen.add(k) or output.logits.sum())

    def network(*batches):
        calls.append([tuple(batch.shape) for batch in batches])
        return tuple(output_of(batch) for batch in batches)

    labeled, image = Labeled(torch.zeros(3, 1, *patch), None), Unlabeled(weak=torch.zeros(2, 1, *patch))
    torch.manual_seed(0)
    for _ in range(40):
        terms = method.losses(network, labeled, image, END)
    assert seen == turns
    assert set(terms) == {"supervised", "consistency"}
    assert calls == [[(3, 1, *patch), (2, 1, *patch), (2, 1, *patch)]] * 40


def test_steps_of_an_equivariant_network_cost_nothing_and_of_another_something(tiny_net):
    method, identity = ready(), Net(nn.Identity(), kind(2))
    torch.manual_seed(0)
    labeled, image = Labeled(torch.zeros(1, 2, 8, 8), None), Unlabeled(weak=torch.randn(2, 2, 8, 8))
    for _ in range(10):
        assert method.losses(identity, labeled, image, END)["consistency"].item() < 1e-12
    labeled, image = Labeled(torch.zeros(1, 1, 16, 16), None), Unlabeled(weak=torch.randn(2, 1, 16, 16))
    costs = [method.losses(tiny_net(), labeled, image, END)["consistency"].item() for _ in range(10)]
    assert max(costs) > 1e-7


@pytest.mark.parametrize(
    ("patch", "spacing", "mirror", "expected"),
    [
        ((16, 16), (1.0, 1.0), (0, 1), ((2, 3), 1)),
        ((16, 24), (1.0, 1.0), (0, 1), ((2, 3), 2)),
        ((16, 16), (1.0, 0.8), (0, 1), ((2, 3), 2)),
        ((16, 16), (0.70000001, 0.7), (0, 1), ((2, 3), 1)),
        ((16, 16, 16), (1.0, 1.0, 1.0), (0, 1, 2), ((3, 4), 1)),
        ((8, 16, 16), (3.0, 1.0, 1.0), (0, 1, 2), ((3, 4), 1)),
        ((16, 16, 24), (1.0, 1.0, 1.0), (0, 1, 2), ((2, 3), 1)),
        ((16, 24, 16), (1.0, 1.0, 1.0), (0, 1, 2), ((2, 4), 1)),
        ((16, 16, 16), (1.0, 1.0, 1.0), (0, 1), ((2, 3), 1)),
        ((8, 16, 16), (3.0, 1.0, 1.0), (0, 2), ((2, 4), 2)),
        ((8, 16, 24), (1.0, 1.0, 1.0), (0, 1, 2), ((3, 4), 2)),
    ],
)
def test_plane_and_smallest_turn(patch, spacing, mirror, expected):
    found = plane_of_turns(task(dimensions=len(patch), patch_size=patch, spacing=spacing, mirror_axes=mirror))
    assert found == expected


@pytest.mark.parametrize("mirror", [(), (2,)])
def test_without_two_mirrored_axes_there_is_no_turn(mirror):
    with pytest.raises(NotImplementedError, match=f"mirrors along {len(mirror)} of 3"):
        ready(dimensions=3, mirror_axes=mirror)


def test_the_weight_ramps_over_the_whole_training():
    method = RotConsistency()
    for fraction, weight in ((0.0, 0.00067379), (0.5, 0.02865048), (1.0, 0.1)):
        assert method.ramped_weight(Now(0, 0, fraction)) == pytest.approx(weight, abs=5e-9)
