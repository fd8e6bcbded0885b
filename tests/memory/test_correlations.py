"""Relations to a memory against their closed forms."""

import math

import pytest
import torch
from workbench import kind, target
from workbench import output as output_of

from nnunet_ssl.memory.correlations import Correlations, agreed, disagreement

Q_V, Q_A = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]]), torch.tensor([[[0.5, 0.5], [0.0, 1.0]]])
MEMORY = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]])
ALL = torch.ones(1, 3, dtype=torch.bool)


@pytest.mark.parametrize(("tau", "loss"), [(0.1, 2.500946), (1.0, 1.113980)])
def test_closed_form(tau, loss):
    assert disagreement(Q_V, Q_A, MEMORY, ALL, tau).mean().item() == pytest.approx(loss, abs=2e-6)


def test_relations_at_temperature_one():
    """R_V, from the loss against a second network that is sure of each vector of the memory in turn."""
    wanted = [[0.665241, 0.244728, 0.090031], [0.106507, 0.786986, 0.106507]]
    for voxel, expected in enumerate(wanted):
        for row, probability in enumerate(expected):
            usable = torch.ones(1, 3, dtype=torch.bool)
            sure = torch.zeros(1, 1, 3)
            sure[..., row] = 100.0
            memory = torch.cat((MEMORY, torch.eye(3)[None]), 2)  # five numbers: those of the first, those of the second
            first = torch.cat((Q_V[:, voxel : voxel + 1], torch.zeros(1, 1, 3)), 2)
            second = torch.cat((torch.zeros(1, 1, 2), sure), 2)
            loss = disagreement(first, second, memory, usable, 1.0).item()
            assert loss == pytest.approx(-math.log(probability), abs=1e-5)


def test_short_vectors_relate_to_all_alike():
    torch.manual_seed(0)
    short, memory = 1e-9 * torch.randn(1, 5, 32), torch.randn(1, 512, 32)
    loss = disagreement(short, short, memory, torch.ones(1, 512, dtype=torch.bool), 0.1)
    torch.testing.assert_close(loss, torch.full((1, 5), 6.238320), atol=2e-6, rtol=0)


def test_vectors_that_do_not_count_change_nothing_and_large_ones_do_not_overflow():
    more = torch.cat((MEMORY, 1e4 * MEMORY[:, :1]), 1)
    usable = torch.tensor([[True, True, True, False]])
    torch.testing.assert_close(disagreement(Q_V, Q_A, more, usable, 0.1), disagreement(Q_V, Q_A, MEMORY, ALL, 0.1))
    assert disagreement(1e10 * Q_V, 1e10 * Q_A, MEMORY, ALL, 0.1).isfinite().all()


def test_both_networks_get_a_gradient():
    first, second = Q_V.clone().requires_grad_(), Q_A.clone().requires_grad_()
    disagreement(first, second, MEMORY, ALL, 1.0).sum().backward()
    assert first.grad.abs().sum() > 0 and second.grad.abs().sum() > 0


def test_in_parts_of_the_voxels_nothing_changes(monkeypatch):
    """Values and gradients against the formula written out, for 3 parts of 2 voxels, 1 of 5 and 5 of 1."""
    torch.manual_seed(0)
    memory, usable = torch.randn(2, 7, 4), torch.rand(2, 7) > 0.3
    given = [torch.randn(2, 5, 4, requires_grad=True) for _ in range(2)]
    r_1, r_2 = ((u @ memory.mT / 0.5).masked_fill(~usable[:, None], -1e30).softmax(2) for u in given)
    expected = -(r_2 * (r_1 + 1e-8).log()).sum(2)
    gradients = torch.autograd.grad(expected.square().sum(), given)
    for part in (14, 2**22, 1):
        monkeypatch.setattr("nnunet_ssl.memory.correlations._PART", {"cpu": part})
        found = disagreement(*given, memory, usable, 0.5)
        torch.testing.assert_close(found, expected)
        found = torch.autograd.grad(found.square().sum(), given)
        torch.testing.assert_close(found, gradients, rtol=1e-5, atol=1e-5)


def said(labels, features=None, channels=3, regions=False, sure=5.0):
    """An output that has labels (B, H, W), or regions (B, C, H, W), with its features before the head."""
    masks = labels if regions else torch.stack([labels == c for c in range(channels)], 1)
    made = output_of((2 * masks.float() - 1) * sure, regions)
    made.features = {"head": torch.randn(len(labels), 4, *labels.shape[-2:]) if features is None else features}
    return made


def made(channels=3, regions=False, size=4, max_voxels=60):
    torch.manual_seed(1)
    return Correlations(kind(channels, regions), 4, ("a", "b"), size, max_voxels, 0.1)


def of(seed=0):
    return torch.Generator().manual_seed(seed)


Y = torch.tensor([[[0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 3]]])


def test_the_memory_has_annotated_voxels_that_both_networks_have_right():
    first, second = Y.clamp(max=2), Y.clamp(max=2)
    first[..., 0], second[..., 7] = 1, 2
    correlations, outputs = made(), (said(first), said(second))
    correlations.remember(outputs, target(Y[:, None].float(), 3, ignore=3), ("b",), 0.5)
    assert correlations.bank.count.tolist() == [[0, 0, 0], [4, 2, 2]]
    correlations.g.eval()
    places = {1: [5, 6], 2: [8, 9]}
    for number, where in places.items():
        both = [g(o.features["head"][0, :, 0, where].T) for g, o in zip(correlations.g, outputs, strict=True)]
        torch.testing.assert_close(correlations.bank.vectors[1, number, :2], (both[0] + both[1]) / 2)
    assert all(not parameter.requires_grad or parameter.grad is None for parameter in correlations.parameters())
    assert all(norm.mean.abs().sum() == 0 for norm in (correlations.g[0][1], correlations.g[1][1]))  # statistics stay


def test_regions_have_classes_inside_and_outside():
    inside = torch.tensor([[[[1, 1, 1, 0, 0, 0]], [[0, 0, 0, 0, 0, 1]]]])
    other = inside.clone()
    other[0, 1, 0, 0] = 1
    masks = agreed(said(inside, regions=True), said(other, regions=True))
    assert masks.flatten(2).sum(2).tolist() == [[3, 1, 3, 4]]
    correlations = made(2, True)
    outputs = (said(inside, regions=True), said(other, regions=True))
    correlations.remember(outputs, target(inside.float(), 2, True), ("a",), 0.5)
    assert correlations.bank.count[0].tolist() == [3, 1, 3, 4]


def relate(correlations, first, second, **arguments):
    outputs = said(first, **arguments), said(second, **arguments)
    loss = correlations(outputs, of())
    return loss, outputs


def test_without_memory_the_loss_is_zero_and_has_a_gradient():
    correlations = made()
    correlations.bank.count[:] = 3  # of either case, six in all: enough for 4
    labels = torch.randint(0, 3, (2, 4, 4))
    assert relate(correlations, labels, labels)[0] > 0
    correlations.bank.count[:] = 1
    loss, _ = relate(correlations, labels, labels)
    assert loss == 0
    loss.backward()
    assert all(p.grad is not None and not p.grad.any() for p in correlations.parameters())


def test_voxels_on_which_the_networks_differ_do_not_count():
    correlations = made()
    correlations.bank.count[:] = 9
    correlations.bank.vectors.normal_()
    first = torch.zeros(1, 4, 4, dtype=torch.long)
    features = torch.randn(1, 4, 4, 4, requires_grad=True)
    correlations.eval()  # or batch statistics would reach every voxel
    second = first.clone()
    second[0, 0], first[0, 1, 0] = 1, 2
    loss, _ = relate(correlations, first, second, features=features)
    loss.backward()
    counted = features.grad.abs().sum(1)[0] > 0
    expected = torch.ones(4, 4, dtype=torch.bool)
    expected[0], expected[1, 0] = False, False
    assert torch.equal(counted, expected)


def test_the_surest_voxels_of_a_class_count_and_a_single_one_of_a_class_does_not():
    correlations = made(2, max_voxels=8)  # four of each class
    correlations.bank.count[:] = 9
    correlations.bank.vectors.normal_()
    correlations.eval()
    labels = torch.zeros(1, 1, 10, dtype=torch.long)
    labels[..., 9] = 1
    features = torch.randn(1, 4, 1, 10, requires_grad=True)
    sure = torch.arange(1.0, 11.0).view(1, 1, 1, 10)
    outputs = said(labels, features, 2, sure=sure), said(labels, features, 2)
    correlations(outputs, of()).backward()
    assert (features.grad.abs().sum(1)[0, 0] > 0).nonzero().flatten().tolist() == [5, 6, 7, 8]


def test_each_region_relates_to_its_own_vectors_alone():
    correlations = made(2, True)
    correlations.bank.count[0] = torch.tensor([9, 0, 9, 0])  # the second region has none
    correlations.bank.vectors.normal_()
    outputs = said(torch.ones(1, 2, 3, 3), regions=True), said(torch.ones(1, 2, 3, 3), regions=True)
    loss = correlations(outputs, of()).item()
    correlations.bank.vectors[0, [1, 3]] = 1e3
    assert loss > 0 and correlations(outputs, of()).item() == loss
    correlations.bank.vectors[0, [0, 2]] *= 2
    assert correlations(outputs, of()).item() != loss
