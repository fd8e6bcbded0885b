"""DeSCO against the numbers of its closed forms."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_steps import LATE, batches, ready
from workbench import kind, output, target, task

from nnunet_ssl.errors import InputError
from nnunet_ssl.losses.dense_sparse import carried, dense_sparse, mean_per_patch
from nnunet_ssl.losses.dice import squared_dice
from nnunet_ssl.method import Labeled, Now
from nnunet_ssl.methods.desco import DeSCO, decay


def maps_of(first, second, planes, inside=None):
    """Maps (1, 2 K + 3, *spatial) of masks (K, *spatial) of both volumes."""
    shape = first.shape[1:]
    grid = torch.meshgrid(*[torch.arange(float(size)) for size in shape], indexing="ij")
    distances = [(grid[axis] - index).abs()[None] for axis, index in planes]
    inside = torch.ones(1, *shape) if inside is None else inside
    return torch.cat([first, second, *distances, inside])[None].float()


def test_weighted_cross_entropy_and_dice():
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 1.0]]).view(1, 2, 1, 3).requires_grad_()
    truth = target(torch.tensor([0.0, 1.0, 0.0]).view(1, 1, 1, 3), 2)
    w = torch.tensor([1.0, 0.95, 0.9025]).view(1, 1, 1, 3)
    ce = mean_per_patch(output(logits).kind.cross_entropy(logits, truth.labels), w[:, 0])
    assert ce.item() == pytest.approx(0.821763, abs=1e-6)
    dice = squared_dice(output(logits).probs[:, 1:], truth.full, weights=w)
    assert dice.item() == pytest.approx(0.360519, abs=1e-6)
    loss = dense_sparse(output(logits), truth, w, task(scale_weights=(1.0,)))
    assert loss.item() == pytest.approx(0.591141, abs=1e-6)


def test_no_weight_at_all_gives_no_loss_and_no_gradient():
    values = torch.tensor([[3.0, 4.0]], requires_grad=True)
    loss = mean_per_patch(values, torch.zeros(1, 2))
    loss.backward()
    assert loss.item() == 0 and not values.grad.any()


def test_certain_voxels_are_those_below_the_rising_threshold():
    method = DeSCO(passes=2, noise=0.0)
    probs = torch.tensor([[0.6, 0.75, 0.85], [0.4, 0.25, 0.15]]).view(1, 2, 1, 3)

    class Stub:
        kind = kind(2)

        def predict(self, image):
            return output(probs.log())

    for fraction, kept in ((0.0, [False, False, True]), (0.5, [False, True, True]), (1.0, [True, True, True])):
        certain = method.certain(Stub(), torch.zeros(1, 1, 1, 3), Now(0, 0, fraction))
        assert certain.flatten().tolist() == kept


def test_weights_fall_with_the_distance_to_the_own_plane_and_are_1_on_the_other():
    masks = torch.zeros(1, 5, 6, 7)
    maps = maps_of(masks, masks, [(2, 3), (1, 3)])
    labeled = Labeled(torch.zeros(1, 1, 5, 6, 7), target(torch.zeros(1, 1, 5, 6, 7), 2), (), maps)
    (_, first), (_, second) = carried(labeled, 0.5)
    assert first.unique().tolist() == [0.125, 0.25, 0.5, 1.0]
    assert first.sum().item() == pytest.approx(103.75)
    assert (second[..., 3] == 1).all() and second[0, 0, 0, 0, 0] == 0.125 and second[0, 0, 0, 5, 0] == 0.25


@pytest.mark.parametrize("regions", [False, True])
def test_each_network_has_its_own_labels_and_on_the_other_plane_the_other_ones(regions):
    first, second = torch.zeros(2, 5, 6, 7), torch.zeros(2, 5, 6, 7)
    first[0, :, :, :3], second[1, :, :, 2:] = 1, 1
    nothing = torch.zeros(1, 2 if regions else 1, 5, 6, 7)
    labeled = Labeled(
        torch.zeros(1, 1, 5, 6, 7),
        target(nothing, 2 + (not regions), regions),
        (),
        maps_of(first, second, [(0, 3), (1, 3)]),
    )
    (a, _), (b, _) = carried(labeled, 0.5)
    expected_a, expected_b = first.clone(), second.clone()
    expected_a[:, :, 3], expected_b[:, 3] = second[:, :, 3], first[:, 3]
    for found, expected in ((a, expected_a), (b, expected_b)):
        assert torch.equal(found.kind.masks(found.labels, found.kind.background)[0].float(), expected)


def test_beyond_the_scan_nothing_counts_and_a_case_labeled_in_full_keeps_its_labels():
    inside = torch.ones(1, 4, 4, 4)
    inside[..., 3] = 0
    sparse = maps_of(torch.zeros(1, 4, 4, 4), torch.zeros(1, 4, 4, 4), [(0, 1), (1, 1)], inside)
    labels = torch.randint(0, 3, (2, 1, 4, 4, 4), generator=torch.Generator().manual_seed(0)).float()
    labels[0] = 2  # ignored wherever it says nothing of the carried labels
    labeled = Labeled(labels, target(labels, 2, ignore=2), (), torch.cat([sparse, torch.zeros_like(sparse)]))
    for found, w in carried(labeled, 0.9):
        assert not w[0, ..., 3].any() and (w[0, ..., :3] > 0).all()
        assert torch.equal(found.scales[0][1], labels[1])
        assert torch.equal(w[1] > 0, labels[1] != 2)


def test_alpha_and_lambda():
    for step, alpha in ((0, 0.95), (999, 0.95), (1000, 0.945503), (2000, 0.761249), (3000, 0.5), (5999, 0.073680)):
        assert decay(step / 6000) == pytest.approx(alpha, abs=1e-6)
    assert decay(4000 / 6000) == pytest.approx(0.273005, abs=1e-6)
    method = DeSCO()
    assert method.ramped_weight(Now(0, 0, 0.0)) == pytest.approx(0.000674, abs=1e-6)
    assert method.ramped_weight(Now(3000, 0, 0.5)) == pytest.approx(0.028650, abs=1e-6)


def test_each_learns_what_the_other_says_where_that_one_is_certain():
    """The teacher's labels are without gradient: each network moves by its own terms alone."""
    net, method = ready(DeSCO, 2, 2, False, noise=0.0, weight=1.0)
    labeled, unlabeled = batches(2, 2, False)
    end = replace(LATE, fraction=1.0)
    method.losses(net, labeled, unlabeled, end)["cross"].backward()
    a, b = net(unlabeled.weak), method.second(unlabeled.weak)
    parameters = [*net.module.parameters()]
    own = method.cross(a, b, method.certain(method.second, unlabeled.weak, end))
    expected = torch.autograd.grad(own, parameters, allow_unused=True)
    pairs = [(p.grad, e) for p, e in zip(parameters, expected, strict=True) if e is not None]
    every = [torch.allclose(found, e, atol=1e-6) for found, e in pairs]
    assert len(every) > 5 and all(every)


def test_weights_of_the_two_losses_sum_to_one():
    net, method = ready(DeSCO, 2, 3, False, noise=0.0, weight=0.4)
    terms = method.losses(net, *batches(2, 3, False), replace(LATE, fraction=1.0))
    net0, bare = ready(DeSCO, 2, 3, False, noise=0.0, weight=0.0)
    assert terms["supervised"].item() == pytest.approx(
        0.6 * bare.losses(net0, *batches(2, 3, False), LATE)["supervised"].item(), rel=1e-5
    )


def test_a_case_with_ignored_voxels_and_no_propagated_labels_is_refused(tmp_path):
    method = DeSCO()
    method.task = task(3, 2, ignore_label=2, labeled_folder=str(tmp_path / "plans"))
    segmentation = np.zeros((4, 4, 4), np.int16)
    assert method.case_maps("a", segmentation, (1.0,) * 3).shape == (5, 4, 4, 4)
    segmentation[0, 0, 0] = 2
    with pytest.raises(InputError, match="case a: it has ignored voxels .* run `nnunet_ssl propagate`"):
        method.case_maps("a", segmentation, (1.0,) * 3)


def test_a_2d_configuration_is_refused_even_where_all_is_labeled():
    method = DeSCO()
    method.task = task(2, 2)
    with pytest.raises(InputError, match="two orthogonal slices, which no 2D patch shows: train 3d_fullres"):
        method.case_maps("a", np.zeros((4, 4, 4), np.int16), (1.0,) * 3)


@pytest.mark.parametrize("wrong", [{"weight": 1.5}, {"passes": 0}, {"noise": -1.0}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DeSCO(**wrong)
    assert math.isfinite(decay(1.0))


@pytest.mark.parametrize("maps", [None, torch.zeros(2, 0, 4, 4)])
def test_without_maps_a_batch_is_labeled_in_full(maps):
    known = target(torch.ones(2, 1, 4, 4), 2)
    for found, w in carried(Labeled(torch.zeros(2, 1, 4, 4), known, (), maps), 0.9):
        assert found is known and (w == 1).all()
