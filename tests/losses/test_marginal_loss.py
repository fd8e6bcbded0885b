"""Losses where classes or regions were not annotated in the case of a patch."""

from dataclasses import replace

import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch.nn import functional as F
from workbench import output, target, task

from nnunet_ssl.losses.supervised import Supervised, of_annotated
from nnunet_ssl.losses.weighted import weighted_supervised

SIZES = ((6, 8), (3, 4))
WEIGHTS = (2 / 3, 1 / 3)


def nnunets(regions=False, batch_dice=False, ignore=None):
    settings = {"batch_dice": batch_dice, "do_bg": regions, "smooth": 1e-5, "ddp": False}
    if regions:
        loss = DC_and_BCE_loss(
            {}, settings, use_ignore_label=ignore is not None, dice_class=MemoryEfficientSoftDiceLoss
        )
    else:
        loss = DC_and_CE_loss(settings, {}, ignore_label=ignore, dice_class=MemoryEfficientSoftDiceLoss)
    return DeepSupervisionWrapper(loss, WEIGHTS)


def pyramid(channels=4, samples=3, seed=0):
    torch.manual_seed(seed)
    return [(3 * torch.randn(samples, channels, *size)).requires_grad_() for size in SIZES]


def labels(known, regions=False, samples=3, channels=4):
    """Random ones at all scales, of the channels that are known, (B, C), alone."""
    torch.manual_seed(1)
    scales = []
    for size in SIZES:
        drawn = torch.randint(channels, (samples, 1, *size))
        masks = drawn == torch.arange(channels).view(1, -1, 1, 1)
        masks = masks & known.view(samples, channels, 1, 1)
        scales.append(masks.float() if regions else masks.float().argmax(1, keepdim=True).float())
    return scales


def missing_of(*rows):
    return torch.tensor(rows, dtype=torch.bool)


def with_missing(scales, missing, regions=False, ignore=None):
    return replace(target(scales, missing.shape[1], regions, ignore), missing=missing[:, :, None, None])


SOME = missing_of([0, 1, 0, 1], [0, 0, 0, 0], [0, 0, 1, 0])


def gradients(loss, scales):
    return torch.autograd.grad(loss, scales, retain_graph=True)


@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("regions", [False, True])
def test_with_all_annotated_it_is_nnunets_loss_bit_for_bit(regions, batch_dice):
    scales, loss = pyramid(), nnunets(regions, batch_dice)
    truth = labels(torch.ones(3, 4, dtype=torch.bool), regions)
    ours = Supervised(loss, True)(output(scales, regions), target(truth, 4, regions))
    theirs = loss(scales, truth)
    assert torch.equal(ours, theirs)
    assert all(map(torch.equal, gradients(ours, scales), gradients(theirs, scales)))


@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("regions", [False, True])
def test_a_mask_of_nothing_changes_nothing(regions, batch_dice):
    """A batch of which another rank has patches that lack something."""
    scales, loss = pyramid(), Supervised(nnunets(regions, batch_dice), True)
    truth = target(labels(torch.ones(3, 4, dtype=torch.bool), regions), 4, regions)
    nothing = replace(truth, missing=torch.zeros(3, 4, 1, 1, dtype=torch.bool))
    whole, masked = loss(output(scales, regions), truth), loss(output(scales, regions), nothing)
    torch.testing.assert_close(masked, whole)
    torch.testing.assert_close(gradients(masked, scales), gradients(whole, scales))


@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("regions", [False, True])
def test_where_nothing_was_annotated_nothing_is_learned(regions, batch_dice):
    scales = pyramid()
    nothing = torch.ones(3, 4, dtype=torch.bool)
    nothing[:, 0] = regions  # of classes the background remains
    truth = with_missing(labels(~nothing, regions), nothing, regions)
    loss = Supervised(nnunets(regions, batch_dice), True)(output(scales, regions), truth)
    assert loss.isfinite()
    assert all(gradient.abs().max() == 0 for gradient in gradients(loss, scales))


@pytest.mark.parametrize("batch_dice", [False, True])
def test_of_classes_it_is_the_marginal_loss(batch_dice):
    """By hand: cross-entropy of what background may be, Dice of the annotated classes, of the full scale alone."""
    logits, loss = pyramid()[0], nnunets(batch_dice=batch_dice).loss
    truth = labels(~SOME)[0]
    ours = Supervised(loss, False)(output(logits), with_missing([truth], SOME))
    p, y = logits.softmax(1), truth[:, 0].long()
    background = p[:, 0] + (p * SOME[:, :, None, None]).sum(1)
    own = p.gather(1, y[:, None])[:, 0]
    cross_entropy = -torch.where(y == 0, background, own).log().mean()
    counted = (~SOME[:, 1:, None, None]).float()
    foreground, masks = p[:, 1:] * counted, F.one_hot(y, 4).movedim(-1, 1)[:, 1:] * counted
    axes = (0, 2, 3) if batch_dice else (2, 3)
    overlap, size = (foreground * masks).sum(axes), (foreground + masks).sum(axes)
    dice = (2 * overlap + 1e-5) / (size + 1e-5)
    torch.testing.assert_close(ours, cross_entropy - dice.mean())


def test_a_voxel_labeled_background_does_not_tell_it_from_the_missing_class():
    """Three classes of p = 0.5, 0.3, 0.2 and the second missing: loss -ln 0.8, gradient p_j - p_j / 0.8 within it."""
    logits = torch.tensor([0.5, 0.3, 0.2]).log().view(1, 3, 1, 1).requires_grad_()
    merged, truth = of_annotated(output(logits), with_missing([torch.zeros(1, 1, 1, 1)], missing_of([0, 1, 0])))
    assert truth.missing is None and truth.annotated is None
    loss = F.cross_entropy(merged.logits, truth.labels)
    assert loss.item() == pytest.approx(0.2231, abs=1e-4)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient.flatten(), torch.tensor([-0.125, -0.075, 0.2]))
    assert gradient.sum().item() == pytest.approx(0, abs=1e-7)


def test_an_annotated_voxel_speaks_against_the_missing_class_as_ever():
    logits = torch.tensor([0.5, 0.3, 0.2]).log().view(1, 3, 1, 1).requires_grad_()
    merged, truth = of_annotated(output(logits), with_missing([torch.full((1, 1, 1, 1), 2.0)], missing_of([0, 1, 0])))
    (gradient,) = torch.autograd.grad(F.cross_entropy(merged.logits, truth.labels), logits)
    torch.testing.assert_close(gradient.flatten(), torch.tensor([0.5, 0.3, -0.8]))


@pytest.mark.parametrize("batch_dice", [False, True])
def test_of_regions_the_others_get_what_they_ever_get(batch_dice):
    scales, loss = pyramid(), Supervised(nnunets(True, batch_dice), True)
    truth = labels(~SOME, regions=True)
    known = gradients(loss(output(scales, True), with_missing(truth, SOME, True)), scales)
    whole = gradients(loss(output(scales, True), target(truth, 4, True)), scales)
    for some, ever in zip(known, whole, strict=True):
        assert some[SOME].abs().max() == 0
        complete = ~SOME if not batch_dice else (~SOME.any(0)).expand_as(SOME)  # whose sums have the same patches
        torch.testing.assert_close(some[complete], ever[complete])


@pytest.mark.parametrize("regions", [False, True])
def test_ignored_voxels_stay_ignored(regions):
    logits = pyramid()[0]
    truth = labels(~SOME, regions)[0]
    ignored = torch.rand(3, 1, *SIZES[0]) < 0.5
    truth = torch.cat((truth, ignored.float()), 1) if regions else torch.where(ignored, 4, truth)
    goal = with_missing([truth], SOME, regions, 4 + regions)
    (gradient,) = torch.autograd.grad(
        Supervised(nnunets(regions, ignore=4).loss, False)(output(logits, regions), goal), logits
    )
    assert gradient.isfinite().all() and gradient.abs().max() > 0
    assert gradient[ignored.expand_as(gradient)].abs().max() == 0
    assert not goal.annotated[ignored[:, 0]].any()


def test_class_weights_keep_the_marginal_loss():
    scales = pyramid()
    truth = labels(~SOME)
    plain = Supervised(nnunets(), True)(output(scales), with_missing(truth, SOME))
    weighted = weighted_supervised(output(scales), with_missing(truth, SOME), torch.ones(4), task(2, 4))
    torch.testing.assert_close(weighted, plain)
    torch.testing.assert_close(gradients(weighted, scales), gradients(plain, scales))


def test_what_is_labeled_background_is_not_known_where_classes_are_missing():
    truth = torch.tensor([0.0, 2.0]).expand(3, 1, 5, 2)
    annotated = with_missing([truth], SOME).annotated
    assert annotated[1].all()
    assert not annotated[[0, 2], :, 0].any() and annotated[[0, 2], :, 1].all()
    of_regions = with_missing([torch.zeros(3, 4, 5, 2)], SOME, True).annotated
    assert of_regions.shape == (3, 5, 2) and of_regions.flatten(1).all(1).tolist() == [False, True, False]


def test_mixed_patches_lack_a_class_where_their_voxels_come_from():
    """Left half of the first case, which lacks class 1, right half of another one that has it."""
    logits = pyramid(samples=1)[0]
    truth = torch.zeros(1, 1, *SIZES[0])
    truth[..., 4:] = 1
    missing = torch.zeros(1, 4, *SIZES[0], dtype=torch.bool)
    missing[:, 1, :, :4] = True
    mixed = target([truth, truth], 4).resized(truth, missing)
    merged, goal = of_annotated(output(logits), mixed)
    assert merged.logits[:, 1, :, :4].isneginf().all()
    assert torch.equal(merged.logits[..., 4:], logits[..., 4:])
    assert mixed.annotated[..., 4:].all() and not mixed.annotated[..., :4].any()
    assert goal.missing is None
