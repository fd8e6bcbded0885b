"""Scores against numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch
from workbench import kind

from nnunet_ssl.annotation.scores import (
    CaseScores,
    ClassScores,
    Disagreement,
    Tally,
    densities,
    directions,
    distances,
    instability,
    within_pool,
)

CPU = torch.device("cpu")


def logits_of(*probs, regions=False):
    """(1, C, 1, voxels) of a row of probabilities for each voxel."""
    values = torch.tensor(probs).T[None, :, None]
    return values.logit() if regions else values.log()


def tally(logits, regions=False, instability=None, information=None):
    kind_ = kind(logits.shape[1], regions)
    names = [f"class {c}" for c in range(kind_.background, logits.shape[1])]
    made = Tally(kind_, names)
    made.add(logits, instability, information)
    return made.scores("a", (instability is not None, information is not None), None)


def test_instability_of_two_voxels_of_which_one_lies_near_the_border():
    """W = I, r = [.2, 0] and [3, 0], d = [.6, .8]: the push is [-.707, .707] for both."""
    logits = torch.tensor([[0.2, 3.0], [0.0, 0.0]])[None, :, None]
    probe = torch.tensor([0.6, 0.8])[None, :, None, None].expand(1, 2, 1, 2)
    found = instability(logits, kind(2), torch.eye(2), probe)
    assert found.shape == (1, 1, 1, 2)
    assert found.flatten().tolist() == pytest.approx([0.239454, 0.070645], abs=1e-6)


def test_instability_through_the_logits_is_that_through_the_features():
    """The gradient itself, of features that a head with bias reads."""
    torch.manual_seed(0)
    weight, bias, r, d = torch.randn(3, 7), torch.randn(3, 1), torch.randn(7, 20), torch.rand(7, 20) - 0.5
    d /= d.norm(dim=0)

    def kl_to(moved, p):
        return (p * (p.log() - (weight @ moved + bias).log_softmax(0))).sum(0)

    p = (weight @ r + bias).softmax(0)
    moved = (r + 10 * d).requires_grad_()
    (gradient,) = torch.autograd.grad(kl_to(moved, p).sum(), moved)
    expected = kl_to(r + gradient / gradient.norm(dim=0), p)
    logits, probe = (weight @ r + bias)[None, :, None], (weight @ d)[None, :, None]
    found = instability(logits, kind(3), weight @ weight.T, probe)
    torch.testing.assert_close(found.flatten(), expected, rtol=1e-4, atol=1e-5)


def test_instability_of_regions_is_the_sum_over_them_and_that_of_sure_voxels_is_none():
    """One region alone is the pair of classes (z, 0)."""
    z, probe = torch.tensor([0.4, -1.0, 60.0]), torch.tensor([0.3, -0.5, 0.1])
    both = instability(
        torch.stack((z, torch.full((3,), 80.0)))[None, :, None], kind(2, True), torch.eye(2),
        torch.stack((probe, torch.zeros(3)))[None, :, None],
    ).flatten()  # fmt: skip
    p, moved = z.sigmoid(), z + (z + 10 * probe).sigmoid().sub(z.sigmoid()).sign()
    q = moved.sigmoid()
    expected = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    assert both[:2].tolist() == pytest.approx(expected[:2].tolist(), abs=1e-5)
    assert both[2] == 0


def test_directions_are_those_of_unit_vectors_drawn_from_a_seed():
    weight = torch.randn(3, 5)
    found = directions(weight, (4, 6))
    assert found.shape == (1, 3, 4, 6) and torch.equal(found, directions(weight, (4, 6)))
    assert not torch.equal(found, directions(weight, (4, 6), seed=1))
    unit = directions(torch.eye(5), (4, 6))
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(1, 4, 6))
    assert len(unit[0, 0].unique()) == 24


def test_mutual_information_of_two_passes():
    disagreement = Disagreement(kind(2), CPU)
    disagreement.add(logits_of([0.9, 0.1], [0.7, 0.3]))
    disagreement.add(logits_of([0.1, 0.9], [0.7, 0.3]))
    # ln 2 - H(.9), and nothing where both say the same, however unsure
    assert disagreement.result().flatten().tolist() == pytest.approx([0.693147 - 0.325083, 0], abs=1e-5)


def test_mutual_information_of_regions_is_their_sum():
    disagreement = Disagreement(kind(2, True), CPU)
    disagreement.add(logits_of([0.9, 0.9], regions=True))
    disagreement.add(logits_of([0.1, 0.1], regions=True))
    assert disagreement.result().item() == pytest.approx(2 * (0.693147 - 0.325083), abs=1e-5)


PROBS = ([0.9, 0.1], [0.5 - 1e-4, 0.5 + 1e-4], [0.4, 0.6], [0.01, 0.99], [0.99, 0.01])


def test_entropy_is_the_mean_over_unsure_voxels_of_a_class():
    scores = tally(logits_of(*PROBS))
    assert scores.by_class == {"class 1": ClassScores(3, pytest.approx(2 / 3), pytest.approx(0.683080, abs=1e-5))}
    assert scores.entropy == pytest.approx((0.693147 + 0.673012) / 2, abs=1e-5)
    assert scores.instability is None and scores.mutual_information is None


def test_entropy_is_the_mean_over_the_classes_that_are_there():
    scores = tally(logits_of([0.2, 0.7, 0.1], [0.98, 0.01, 0.01]))
    assert scores.by_class["class 2"] == ClassScores(0, 0.0, 0.0)
    assert scores.entropy == pytest.approx(-sum(p * math.log(p) for p in (0.2, 0.7, 0.1)), abs=1e-6)
    assert tally(logits_of([0.98, 0.02])).entropy == 0


def test_entropy_of_regions_is_that_of_each():
    scores = tally(logits_of([0.6, 0.99], [0.99, 0.01], regions=True), regions=True)
    assert scores.by_class["class 0"] == ClassScores(2, 0.5, pytest.approx(0.673012, abs=1e-5))
    assert scores.by_class["class 1"] == ClassScores(1, 0.0, 0.0)


def test_maps_are_summed_where_the_model_is_unsure_or_sees_something():
    """Instability over all five voxels; information over those that are foreground or unsure, all but the last."""
    values = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0]).view(1, 1, 1, 5)
    scores = tally(logits_of(*PROBS), instability=values, information=values)
    assert scores.instability == pytest.approx((1 + 2 + 4) / 5)
    assert scores.mutual_information == pytest.approx((1 + 2 + 4 + 8) / 4)


def test_permuted_voxels_and_other_slabs_leave_the_scores():
    torch.manual_seed(0)
    logits, maps = 3 * torch.randn(1, 4, 6, 5, 5), torch.rand(1, 1, 6, 5, 5)
    whole = tally(logits, instability=maps, information=maps)
    order = torch.randperm(150)
    permuted = [t.flatten(2)[..., order].view_as(t) for t in (logits, maps)]
    others = [tally(permuted[0], instability=permuted[1], information=permuted[1])]
    made = Tally(kind(4), [f"class {c}" for c in (1, 2, 3)])
    for slab in (slice(0, 1), slice(1, 6)):
        made.add(logits[:, :, slab], maps[:, :, slab], maps[:, :, slab])
    for other in (*others, made.scores("a", (True, True), None)):
        assert other.instability == pytest.approx(whole.instability, rel=1e-6)
        assert other.mutual_information == pytest.approx(whole.mutual_information, rel=1e-6)
        for name, each in whole.by_class.items():
            assert other.by_class[name] == ClassScores(
                each.voxels, pytest.approx(each.unsure), pytest.approx(each.entropy, rel=1e-6)
            )


def test_uncertainty_is_the_share_of_the_largest_entropy():
    found = Tally(kind(2), ["a"]).add(logits_of([0.5, 0.5], [1 - 1e-7, 1e-7]), None, None)
    assert found.shape == (1, 2) and found.flatten().tolist() == pytest.approx([1, 0], abs=1e-5)


def test_density_is_the_mean_similarity_to_the_nearest_others():
    descriptors = np.array([(1, 0), (0, 1), (1, 0.1)])
    assert densities(descriptors, neighbors=1) == pytest.approx([0.995037, 0.099504, 0.995037], abs=1e-6)
    assert densities(descriptors) == pytest.approx([0.497519, 0.049752, 0.547270], abs=1e-6)
    assert densities(np.array([(1, 0), (-1, 0)])).tolist() == [0, 0]
    assert densities(np.array([(3, 4)])).tolist() == [1]


def test_density_times_entropy():
    entropies = np.array([0.693147, 0.325083, 0.673012])
    product = entropies * densities(np.array([(1, 0), (0, 1), (1, 0.1)]), neighbors=1)
    assert product == pytest.approx([0.689707, 0.032347, 0.669672], abs=1e-6)


def test_a_case_within_its_pool():
    pool = [CaseScores(name, None, None, {}, place) for name, place in (("a", (0.0, 1.0)), ("b", (1.0, 0.0)))]
    first, second = within_pool(pool, np.array([(0.0, 1.0), (0.6, 0.8)]), [0.25, 0.5])
    assert (first.distance, first.random, second.random) == (0, 0.25, 0.5)
    assert second.distance == pytest.approx(math.sqrt(0.8)) and second.density == 0
    assert within_pool(pool, None, [0.25, 0.5])[0].distance is None


def test_distances():
    assert distances(np.array([(0, 0), (3, 4)]), np.array([(0, 0)])).tolist() == [[0], [5]]
