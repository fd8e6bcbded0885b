"""CTAugment against the numbers of its papers, and its state over ranks."""

import pytest
import torch
from workbench import output as output_of
from workbench import target

from nnunet_ssl.augmentation.ct_augment import CTAugment, Policy, proximity
from nnunet_ssl.augmentation.intensity import OPERATIONS
from nnunet_ssl.networks.net import Output

NAMES = list(OPERATIONS)


def controller(cut=0.8, rates=(1.0, 0.9, 0.8, 0.5)) -> CTAugment:
    made = CTAugment(cut, bins=len(rates))
    made.rates[:] = torch.tensor(rates)
    return made


def policy(operations, levels) -> Policy:
    return Policy(torch.tensor(operations), torch.tensor(levels))


def everywhere(values) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(values), torch.ones(len(values), dtype=torch.bool)


@pytest.mark.parametrize(
    ("cut", "relative", "sampling"),
    [
        (0.0, (1, 0.900990, 0.801980, 0.504950), None),
        (0.85, (1, 0.900990, 0, 0), (0.526042, 0.473958, 0, 0)),
        (0.80, (1, 0.900990, 0.801980, 0), (0.369963, 0.333333, 0.296703, 0)),
    ],
)
def test_weights_of_the_bins(cut, relative, sampling):
    weights = controller(cut).weights()[3]
    torch.testing.assert_close(weights, torch.tensor(relative, dtype=torch.float32), atol=1e-6, rtol=0)
    if sampling:
        torch.testing.assert_close(weights / weights.sum(), torch.tensor(sampling), atol=1e-6, rtol=0)


def test_bins_are_drawn_by_their_weights_and_levels_fill_them():
    torch.manual_seed(0)
    drawn = controller().draw(20000, 1)
    bins = (drawn.levels * 4).long().flatten()
    shares = torch.bincount(bins, minlength=4) / len(bins)
    torch.testing.assert_close(shares, torch.tensor([0.369963, 0.333333, 0.296703, 0]), atol=0.012, rtol=0)
    within = drawn.levels.flatten() * 4 - bins
    assert 0.48 < within.mean() < 0.52 and within.max() > 0.99 and within.min() < 0.01
    each = torch.bincount(drawn.operations.flatten(), minlength=len(NAMES)) / 20000
    torch.testing.assert_close(each, torch.full((len(NAMES),), 1 / len(NAMES)), atol=0.012, rtol=0)


def test_probes_are_uniform_whatever_the_rates():
    torch.manual_seed(0)
    probe = controller().draw_probe(20000, 1)
    shares = torch.bincount((probe.levels * 4).long().flatten(), minlength=4) / 20000
    torch.testing.assert_close(shares, torch.full((4,), 0.25), atol=0.012, rtol=0)


def test_update_of_one_bin():
    made = CTAugment()
    assert made.rates.shape == (len(NAMES), 17) and (made.rates == 1).all()
    made.update(policy([[2]], [[0.5]]), *everywhere([0.4]))
    assert made.rates[2, 8].item() == pytest.approx(0.994000, abs=1e-6)
    made.update(policy([[2]], [[1.0]]), *everywhere([0.4]))
    assert made.rates[2, 16].item() == pytest.approx(0.994000, abs=1e-6)
    assert (made.rates != 1).sum() == 2


def test_a_bin_moves_once_to_the_mean_of_its_probes():
    made = CTAugment()
    made.update(policy([[0, 3], [0, 3], [5, 3]], [[0.01, 0.3], [0.02, 0.9], [0.5, 0.91]]), *everywhere([0.2, 0.6, 0.4]))
    assert made.rates[0, 0].item() == pytest.approx(0.99 + 0.01 * 0.4)
    assert made.rates[3, 5].item() == pytest.approx(0.99 + 0.01 * 0.2)
    assert made.rates[3, 15].item() == pytest.approx(0.99 + 0.01 * 0.5)
    assert made.rates[5, 8].item() == pytest.approx(0.99 + 0.01 * 0.4)
    assert (made.rates != 1).sum() == 4


def test_a_patch_without_annotation_moves_nothing():
    made = CTAugment()
    made.update(policy([[0], [1]], [[0.5], [0.5]]), torch.tensor([0.0, 0.0]), torch.tensor([False, True]))
    assert made.rates[0, 8] == 1 and made.rates[1, 8].item() == pytest.approx(0.99)


def test_strengths_that_hurt_are_no_longer_drawn():
    """A network that loses all from level 0.5 on: those bins fall below the cut, the others stay."""
    torch.manual_seed(0)
    made = CTAugment()
    for _ in range(400):
        probe = made.draw_probe(64, 1)
        made.update(probe, *everywhere((probe.levels[:, 0] < 0.5).float().tolist()))
    drawn = made.draw(2000, 2)
    assert drawn.levels.max() < 9 / 17 and drawn.levels.min() < 0.01


def test_operations_are_applied_in_turn_to_the_patches_that_drew_them():
    image = torch.randn(3, 2, 8, 9)
    brightness, shift = NAMES.index("brightness"), NAMES.index("shift")
    changed = policy([[brightness, shift], [shift, brightness], [shift, shift]], [[1.0, 1.0], [1.0, 1.0], [1.0, 0.0]])(
        image
    )
    torch.testing.assert_close(changed[0], 1.5 * image[0] + 0.5)
    torch.testing.assert_close(changed[1], 1.5 * (image[1] + 0.5))
    torch.testing.assert_close(changed[2], image[2])


def test_no_operation_leaves_the_patch():
    image = torch.randn(2, 1, 6, 6, 6)
    made = CTAugment()
    assert torch.equal(made.draw(2, 0)(image), image)


def test_zeros_outside_of_the_object_stay():
    torch.manual_seed(0)
    image = torch.zeros(4, 2, 12, 12, 12)
    image[..., 4:8, 4:8, 4:8] = torch.rand(4, 2, 4, 4, 4) + 1
    for _ in range(5):
        changed = CTAugment().draw(4, 2)(image)
        assert (changed[..., :4, :, :] == 0).all()
        assert not torch.equal(changed, image)


def classes(*distributions) -> Output:
    return output_of(torch.tensor(distributions).T[None].log())


def test_proximity_is_the_probability_of_the_label():
    near, known = proximity(classes((0.7, 0.2, 0.1)), target(torch.tensor([[[0]]]), 3))
    assert near.item() == pytest.approx(0.700000, abs=1e-6) and known.all()
    distance = (torch.tensor([0.7, 0.2, 0.1]) - torch.tensor([1.0, 0.0, 0.0])).abs().sum()
    assert near.item() == pytest.approx(1 - 0.5 * distance.item(), abs=1e-6)


def test_proximity_weighs_the_classes_present_alike():
    output = classes((0.9, 0.05, 0.05), (0.7, 0.2, 0.1), (0.8, 0.1, 0.1), (0.6, 0.2, 0.2))
    near, _ = proximity(output, target(torch.tensor([[[0, 0, 0, 2]]]), 3))
    assert near.item() == pytest.approx((0.8 + 0.2) / 2, abs=1e-6)


def test_proximity_leaves_voxels_without_annotation_out():
    output = classes((0.9, 0.1), (0.3, 0.7))
    near, known = proximity(output, target(torch.tensor([[[0, 2]]]), 2, ignore=2))
    assert near.item() == pytest.approx(0.9, abs=1e-6) and known.all()
    near, known = proximity(output, target(torch.tensor([[[2, 2]]]), 2, ignore=2))
    assert near.item() == 0 and not known.any()


def test_proximity_of_regions_takes_inside_and_outside_of_each():
    probs = torch.tensor([[[0.8, 0.4, 0.1], [0.2, 0.3, 0.1]]])
    labels = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    near, _ = proximity(output_of(probs.logit(), True), target(labels, 2, regions=True))
    assert near.item() == pytest.approx((0.8 + 0.75 + 0.8) / 3, abs=1e-6)


PROBES = policy([[0, 3], [0, 3], [5, 3], [0, 1]], [[0.01, 0.3], [0.02, 0.9], [0.5, 0.91], [0.03, 0.2]])
NEAR, KNOWN = torch.tensor([0.2, 0.6, 0.4, 0.9]), torch.tensor([True, True, True, False])
HALVES = slice(0, 2), slice(2, 4)


def test_ranks_agree_on_the_update_of_all_their_probes(monkeypatch):
    """Each rank sees half of the probes and, through the sum over ranks, moves as if it had seen all."""
    halves = [(Policy(PROBES.operations[part], PROBES.levels[part]), NEAR[part], KNOWN[part]) for part in HALVES]
    sums = []
    monkeypatch.setattr("nnunet_ssl.augmentation.ct_augment.sum_over_ranks", lambda value: sums.append(value) or value)
    for half in halves:
        CTAugment().update(*half)
    monkeypatch.setattr("nnunet_ssl.augmentation.ct_augment.sum_over_ranks", lambda value: sums[0] + sums[1])
    ranks = [CTAugment(), CTAugment()]
    for rank, half in zip(ranks, halves, strict=True):
        rank.update(*half)
    monkeypatch.undo()
    joint = CTAugment()
    joint.update(PROBES, NEAR, KNOWN)
    assert torch.equal(ranks[0].rates, ranks[1].rates)
    torch.testing.assert_close(ranks[0].rates, joint.rates)
    assert (joint.rates != 1).sum() == 4
