"""Vectors of classes and their distance, against numbers worked out by hand."""

import pytest
import torch
from workbench import target

from nnunet_ssl.losses.affinity import Pooled, _vectors, affinity_distance, class_masks, pooled

# one feature, two patches of two voxels
F_L, M_L = torch.tensor([[1.0, 3.0], [2.0, 4.0]]), torch.tensor([[0.0, 1.0], [1.0, 1.0]])
F_U, M_U = torch.tensor([[2.0, 2.0], [0.0, 6.0]]), torch.tensor([[0.5, 0.5], [0.25, 0.75]])


def of(features, foreground, dtype=torch.float32):
    """Sums for background and foreground of two patches of two voxels."""
    return pooled(features[:, None, None], torch.stack((1 - foreground, foreground), 1)[:, :, None].to(dtype))


def test_the_voxels_of_all_patches_divide_the_sums_of_each():
    labeled, unlabeled = _vectors(of(F_L, M_L), 2)[..., 0], _vectors(of(F_U, M_U), 2)[..., 0]
    torch.testing.assert_close(labeled, torch.tensor([[0.999999, 1.000000], [0.0, 1.999999]]), atol=1e-6, rtol=0)
    torch.testing.assert_close(unlabeled, torch.tensor([[1.0, 1.0], [0.75, 2.249999]]), atol=1e-6, rtol=0)


def test_distance_by_pair_and_of_all_patches():
    labeled, unlabeled = of(F_L, M_L), of(F_U, M_U)
    together = [_vectors(each, None).flatten().tolist() for each in (labeled, unlabeled)]
    assert together[0] == pytest.approx([0.999999, 2.999999], abs=1e-6)
    assert together[1] == pytest.approx([1.749999, 3.249998], abs=1e-6)
    assert affinity_distance(labeled, unlabeled).item() == pytest.approx(0.15625, abs=1e-6)
    assert affinity_distance(labeled, unlabeled, by_pair=False).item() == pytest.approx(0.3125, abs=1e-6)


def test_of_single_patches_both_are_one():
    labeled, unlabeled = (Pooled(*(part[:1] for part in of(*each))) for each in ((F_L, M_L), (F_U, M_U)))
    assert torch.equal(affinity_distance(labeled, unlabeled), affinity_distance(labeled, unlabeled, by_pair=False))


def test_order_of_patches():
    labeled, unlabeled = of(F_L, M_L), of(F_U, M_U)
    swapped, other = of(F_L.flip(0), M_L.flip(0)), of(F_U.flip(0), M_U.flip(0))
    for by_pair in (True, False):
        expected = affinity_distance(labeled, unlabeled, by_pair)
        torch.testing.assert_close(affinity_distance(swapped, other, by_pair), expected)
        one_side = affinity_distance(swapped, unlabeled, by_pair)
        assert torch.isclose(one_side, expected) == (not by_pair)


def test_of_fewer_patches_the_first_are_paired_again():
    three = torch.cat((F_U, F_U[:1])), torch.cat((M_U, M_U[:1]))
    repeated = torch.cat((F_L, F_L[:1])), torch.cat((M_L, M_L[:1]))
    assert torch.equal(affinity_distance(of(F_L, M_L), of(*three)), affinity_distance(of(*repeated), of(*three)))


def test_gradients_reach_both_features_and_the_soft_masks():
    torch.manual_seed(0)
    f_l, f_u, m_u = (torch.randn(2, 3, 4, 4, requires_grad=True) for _ in range(3))
    m_l = torch.randn(2, 3, 4, 4) > 0
    affinity_distance(pooled(f_l, m_l), pooled(f_u, m_u.softmax(1))).backward()
    assert all(leaf.grad.abs().sum() > 1e-4 for leaf in (f_l, f_u, m_u))


@pytest.mark.parametrize("by_pair", [True, False])
def test_a_class_that_labeled_patches_lack_does_not_count(by_pair):
    nowhere, everywhere = torch.zeros(2, 2), torch.ones(2, 2)
    unlabeled = of(F_U, M_U)
    alone = affinity_distance(of(F_L, everywhere), unlabeled, by_pair)
    foreground = _vectors(of(F_L, everywhere), 2 if by_pair else None) - _vectors(unlabeled, 2 if by_pair else None)
    assert torch.equal(alone, foreground[:, 1].square().mean())
    both = affinity_distance(of(F_L, everywhere), unlabeled, by_pair, present_only=False)
    torch.testing.assert_close(both, foreground.square().mean())  # the background's features are pulled to 0
    assert both > alone / 2
    neither = pooled(F_L[:, None, None], torch.stack((nowhere, nowhere), 1)[:, :, None])
    assert affinity_distance(neither, unlabeled, by_pair) == 0


def test_sums_beyond_float16_are_taken_in_float32_under_autocast():
    features = torch.full((1, 2, 64, 64), 100.0, dtype=torch.float16, requires_grad=True)
    with torch.autocast("cpu", torch.float16):
        sums, voxels = pooled(features, torch.ones(1, 3, 64, 64, dtype=torch.bool))
    assert sums.dtype == voxels.dtype == torch.float32
    assert sums.unique().tolist() == [409600.0] and voxels.unique().tolist() == [4096.0]
    sums.sum().backward()
    assert features.grad.dtype == torch.float16 and features.grad.unique().tolist() == [3.0]


def test_nothing_in_float32_is_kept_for_the_backward_pass():
    features = torch.randn(1, 2, 8, 8, dtype=torch.bfloat16, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.dtype) or tensor, lambda x: x):
        pooled(features, torch.ones(1, 3, 8, 8, dtype=torch.bool))
    assert torch.float32 not in kept


def test_ignored_voxels_are_of_no_class_and_masks_come_to_the_size_of_features():
    labels = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]).view(1, 1, 4, 4).float()
    masks = class_masks(target(labels, 3, ignore=3), torch.Size((2, 2)))
    assert masks[0].int().tolist() == [[[1, 0], [0, 0]], [[0, 1], [0, 0]], [[0, 0], [1, 0]]]
    regions = torch.cat((labels == 1, labels > 0, labels == 3), 1).float()  # the last is the mask of ignored voxels
    masks = class_masks(target(regions, 2, regions=True, ignore=3), torch.Size((4, 2)))
    column = [[0, 1], [0, 1], [0, 0], [0, 0]]
    assert masks[0].int().tolist() == [column, [[0, 1], [0, 1], [1, 0], [1, 0]]]
