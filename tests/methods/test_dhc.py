"""DHC's losses against the numbers of their formulas, its guards and its averaged prediction."""

from dataclasses import replace

import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch.nn import functional as F
from workbench import output as output_of
from workbench import target, task

from nnunet_ssl.losses.cross_entropy import cross_entropy
from nnunet_ssl.losses.dice import weighted_dice
from nnunet_ssl.losses.weighted import weighted_supervised
from nnunet_ssl.method import Labeled, Now, Unlabeled
from nnunet_ssl.methods.dhc import DHC
from nnunet_ssl.networks.average import Average
from nnunet_ssl.schedules import gaussian_rampup

LOGITS = torch.tensor([[2.0, 0.0, 0.0, -1.0], [0.0, 1.0, 0.0, 0.0]]).T.view(1, 4, 2)
TARGET = torch.tensor([[0, 1]])


def dice_of(weights):
    one_hot = F.one_hot(TARGET, 4).movedim(-1, 1)
    return weighted_dice(LOGITS.softmax(1)[:, 1:], one_hot[:, 1:], weights[1:], batch_dice=True, smooth=1.0).item()


@pytest.mark.parametrize(
    ("weights", "ce", "dice", "total"),
    [
        ((1.0, 1.0, 1.0, 1.0), 0.510823, None, -0.277267),
        ((4.0, 2.0, 1.0, 0.5), 0.433208, -0.902885, None),
        ((0.0, 1.333333, 2.666667, 4.0), 0.743668, None, -1.388111),
    ],
)
def test_weighted_losses(weights, ce, dice, total):
    weights = torch.tensor(weights)
    actual = cross_entropy(output_of(LOGITS), TARGET, weights).item()
    assert actual == pytest.approx(ce, abs=1e-6)
    if dice is not None:
        assert dice_of(weights) == pytest.approx(dice, abs=1e-6)
    if total is not None:
        assert actual + dice_of(weights) == pytest.approx(total, abs=2e-6)


def test_targets_of_weight_zero_give_zero_and_no_nan():
    logits = LOGITS.clone().requires_grad_()
    loss = cross_entropy(output_of(logits), torch.zeros(1, 2, dtype=torch.long), torch.tensor([0.0, 1.0, 2.0, 4.0]))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("ignored", [None, 0.0, 0.5, 1.0])
@pytest.mark.parametrize("regions", [False, True])
def test_with_equal_weights_it_is_nnunets_loss(regions, ignored, batch_dice):
    """Regions and an ignore label as well, where nnU-Net's cross-entropy is a sum over the regions."""
    torch.manual_seed(1)
    pyramid = [torch.randn(2, 3, size, size, requires_grad=True) for size in (16, 8)]
    scales, ignore = [], None if ignored is None else 3 + regions
    for logits in pyramid:
        labels = torch.randint(0, 2, logits.shape).float() if regions else torch.randint(0, 3, logits[:, :1].shape)
        left_out = torch.rand(logits[:, :1].shape) < (ignored or 0)
        if ignored is not None:
            labels = torch.cat((labels, left_out.float()), 1) if regions else torch.where(left_out, ignore, labels)
        scales.append(labels)
    dice = {"batch_dice": batch_dice, "do_bg": regions, "smooth": 1e-5, "ddp": False}
    parts = {"dice_class": MemoryEfficientSoftDiceLoss}
    if regions:
        loss = DC_and_BCE_loss({}, dice, use_ignore_label=ignored is not None, **parts)
    else:
        loss = DC_and_CE_loss(dice, {}, ignore_label=ignore, **parts)
    of = task(2, 3, regions, ignore_label=ignore, batch_dice=batch_dice)
    found = weighted_supervised(output_of(pyramid, regions), of.target(scales), torch.ones(3), of)
    expected = DeepSupervisionWrapper(loss, [2 / 3, 1 / 3])(pyramid, scales)
    torch.testing.assert_close(found, expected)
    for mine, theirs in zip(*(torch.autograd.grad(each, pyramid) for each in (found, expected)), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_constant_factor_scales_the_dice_only():
    weights = torch.tensor([4.0, 2.0, 1.0, 0.5])
    assert cross_entropy(output_of(LOGITS), TARGET, 3 * weights).item() == pytest.approx(
        cross_entropy(output_of(LOGITS), TARGET, weights).item(), abs=1e-6
    )
    assert dice_of(3 * weights) == pytest.approx(3 * dice_of(weights), abs=1e-6)


@pytest.mark.parametrize(("epoch", "expected"), [(0, 0.000673795), (150, 0.028650480), (300, 0.1)])
def test_weight_of_the_cross_term(epoch, expected):
    assert 0.1 * gaussian_rampup(epoch / 300) == pytest.approx(expected, abs=1e-9)


def ready(tiny_net, **arguments):
    net, method = tiny_net(2, 4), DHC(**arguments)
    counts = torch.tensor([1000.0, 100.0, 10.0, 1.0], dtype=torch.float64)
    names = ("background", "large", "small", "tiny")
    method.task = replace(task(2, 4), channels=names, voxel_counts=lambda: counts)
    method.setup(net, lambda: tiny_net(2, 4, seed=7).module)
    return net, method


def batch():
    torch.manual_seed(3)
    labels = torch.randint(0, 4, (2, 1, 16, 16))
    labeled = Labeled(torch.randn(2, 1, 16, 16), target([labels, labels[..., ::2, ::2]], 4))
    return labeled, Unlabeled(weak=torch.randn(2, 1, 16, 16))


def test_counts_of_the_labeled_cases_start_the_distribution_once(tiny_net):
    net, method = ready(tiny_net)
    distribution = method.debiasing[1]
    labeled, unlabeled = batch()
    method.losses(net, labeled, unlabeled, Now(0, 0, 0.0))
    first = distribution.average.clone()
    assert first[0] < 0.05 and first[3] > 3.5  # 1 % of the way from [0, 1.33, 2.67, 4]
    method.losses(net, labeled, unlabeled, Now(1, 0, 0.1))
    assert not torch.equal(distribution.average, first)
    assert {f"class_weight_{n}[{c}]" for n in "AB" for c in method.task.channels} <= set(method.report)


@pytest.mark.parametrize(
    ("weighting", "kinds"),
    [
        ("both", ["DifficultyWeights", "DistributionWeights"]),
        ("difficulty", ["DifficultyWeights"] * 2),
        ("distribution", ["DistributionWeights"] * 2),
    ],
)
def test_ablations(tiny_net, weighting, kinds):
    net, method = ready(tiny_net, weighting=weighting)
    assert [type(weights).__name__ for weights in method.debiasing] == kinds
    terms = method.losses(net, *batch(), Now(0, 0, 0.0))
    assert all(torch.isfinite(term) for term in terms.values())


def test_a_checkpoint_from_before_the_classes_seen_were_kept_loads(tiny_net):
    _, method = ready(tiny_net)
    state = {name: value for name, value in method.state_dict().items() if not name.endswith(".seen")}
    assert len(state) == len(method.state_dict()) - 2
    method.load_state_dict(state)
    assert all(weights.seen.all() for weights in method.debiasing)


def test_different_draws_give_different_pseudo_labels_equal_ones_do_not(tiny_net):
    net, method = ready(tiny_net)
    images = torch.randn(2, 1, 16, 16)
    labels = net(images).logits.argmax(1)
    assert not torch.equal(labels, method.second(images).logits.argmax(1))
    method.twin.load_state_dict(net.module.state_dict())
    assert torch.equal(labels, method.second(images).logits.argmax(1))


def test_both_networks_predict_as_one(tiny_net):
    net, method = ready(tiny_net)
    deployed = method.deployed(net)
    assert isinstance(deployed, Average)
    image = torch.randn(1, 1, 16, 16)
    expected = (net(image).logits + method.second(image).logits) / 2
    torch.testing.assert_close(deployed(image)[0], expected)
    assert len(deployed(image)) == 2
    assert not any(name.startswith("first") for name in method.state_dict())


@pytest.mark.parametrize("wrong", [{"weight": -1.0}, {"weighting": "none"}, {"absent": "zero"}, {"momentum": 2.0}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DHC(**wrong)
