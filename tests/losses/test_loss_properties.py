"""Properties of every voxel loss over shapes, channel counts, precisions and extreme logits: all stays finite."""

import importlib
import inspect
import pkgutil
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import COVERED, check_finite, close, covers
from torch.nn import functional as F
from workbench import target, task

import nnunet_ssl.losses
from nnunet_ssl.augmentation.intensity import OPERATIONS
from nnunet_ssl.losses.affinity import affinity_distance, class_masks, pooled
from nnunet_ssl.losses.confidence import admitted_cross_entropy, admitted_shares, admitted_supervised
from nnunet_ssl.losses.consistency import masked_mse, mutual_consistency
from nnunet_ssl.losses.cross_entropy import cross_entropy, weighted_mean
from nnunet_ssl.losses.dense_sparse import carried, dense_sparse, mean_per_patch
from nnunet_ssl.losses.dice import soft_dice_distance, squared_dice, weighted_dice
from nnunet_ssl.losses.divergence import jensen_shannon, kl, soft_cross_entropy, symmetric_kl
from nnunet_ssl.losses.sharpening import sharpened, sharpened_per_channel
from nnunet_ssl.losses.supervised import of_annotated
from nnunet_ssl.losses.weighted import weighted_supervised
from nnunet_ssl.losses.worst_case import contradiction, worst_case
from nnunet_ssl.memory import class_weights
from nnunet_ssl.method import Labeled
from nnunet_ssl.methods.urpc import pyramid_consistency
from nnunet_ssl.schedules import ema_decay, gaussian_rampup, polynomial_decay, reversal_coefficient

FUNCTIONS = {
    function
    for info in pkgutil.iter_modules(nnunet_ssl.losses.__path__)
    for module in [importlib.import_module(f"nnunet_ssl.losses.{info.name}")]
    for name, function in inspect.getmembers(module, inspect.isfunction)
    if function.__module__ == module.__name__ and not name.startswith("_")
}


def test_every_public_loss_has_a_property_test():
    missing = sorted(function.__qualname__ for function in FUNCTIONS - COVERED)
    assert len(FUNCTIONS) > 10 and not missing, f"add a property test of {missing}"


@covers(cross_entropy)
def test_cross_entropy(case):
    whole = check_finite(cross_entropy(case.output(case.first), case.labels), case.first)
    assert whole >= 0
    ones = torch.ones_like(case.weights)
    close(cross_entropy(case.output(case.first), case.labels, ones), whole)
    masked = cross_entropy(case.output(case.first), case.labels, ones, torch.ones_like(case.valid))
    close(masked, whole * (len(ones) if case.regions else 1))  # with an ignore label nnU-Net sums over regions
    reordered = cross_entropy(case.output(case.first[:, case.order]), case.reordered_labels)
    close(reordered, whole)
    close(cross_entropy(case.output(case.first.flip(0)), case.labels.flip(0)), whole)
    parts = zip(case.first, case.labels, strict=True)
    close(torch.stack([cross_entropy(case.output(x[None]), y[None]) for x, y in parts]).mean(), whole)
    weighted = check_finite(cross_entropy(case.output(case.first), case.labels, case.weights, case.valid), case.first)
    assert weighted >= 0
    if not case.valid.any():
        assert weighted == 0
    perfect = 12e4 * (case.onehot - 0.5)
    assert cross_entropy(case.output(perfect), case.labels) == 0


@covers(weighted_mean)
def test_weighted_mean(case):
    losses, weights = case.first.float().sigmoid(), 1 + case.second.detach().float().sigmoid()
    mean = check_finite(weighted_mean(losses, weights), case.first)
    assert losses.min() - 1e-5 <= mean <= losses.max() + 1e-5
    close(weighted_mean(losses, 3 * weights), mean)
    close(weighted_mean(losses, torch.ones_like(losses)), losses.mean())
    assert weighted_mean(losses, torch.zeros_like(losses)) == 0


@covers()
def test_hard_labels_and_their_confidence(case):
    output = case.output(case.first)
    labels, sure = output.hard, output.confidence
    assert not labels.requires_grad and not sure.requires_grad
    least = 0.5 if case.regions else 1 / case.first.shape[1]
    assert sure.min() >= least - 1e-6 and sure.max() <= 1 + 1e-6
    if case.regions:
        close(torch.where(labels.bool(), output.probs, 1 - output.probs), sure)
    else:
        close(output.probs.gather(1, labels[:, None])[:, 0], sure)


@covers(admitted_cross_entropy)
def test_admitted_cross_entropy(case):
    everything, nothing = (torch.full_like(case.labels, fill, dtype=torch.bool) for fill in (True, False))
    whole = check_finite(admitted_cross_entropy(case.output(case.first), case.labels, everything), case.first)
    close(whole, cross_entropy(case.output(case.first), case.labels))
    none = admitted_cross_entropy(case.output(case.first), case.labels, nothing)
    (gradient,) = torch.autograd.grad(none, case.first)
    assert none == 0 and not gradient.any()
    half = case.valid[:, None].expand_as(case.labels) if case.regions else case.valid
    one, other = (admitted_cross_entropy(case.output(case.first), case.labels, part) for part in (half, ~half))
    close(one + other, whole)


@covers(admitted_shares)
def test_admitted_shares(case):
    output = case.output(case.first)
    known = task(2, case.first.shape[1], case.regions)
    for threshold in (0, 0.95, 1.1):
        admitted = output.confidence >= threshold
        shares = admitted_shares(output.hard, admitted, known)
        assert list(shares) == ["admitted", *(f"admitted[{name}]" for name in known.channels)]
        assert all(0 <= share <= 1 for share in shares.values())
        assert threshold != 0 or shares["admitted"] == 1
        assert threshold <= 1 or not any(shares.values())


@covers(admitted_supervised)
def test_admitted_supervised(case):
    """Over two scales: always finite, -1 where all is right and where nothing counts; 0 for a mean over no sample."""
    channels, dimensions = case.first.shape[1], case.first.ndim - 2
    admitted = case.valid[:, None].expand_as(case.labels) if case.regions else case.valid
    half = case.second[(..., *[slice(None, None, 2)] * dimensions)]
    size = half.shape[2:]
    assert torch.equal(case.kind.nearest(case.labels, case.first.shape[2:]), case.labels)
    small = case.kind.nearest(case.labels, size)
    assert small.shape[-dimensions:] == size and small.dtype == case.labels.dtype
    for batch_dice, of_admitted in ((False, False), (True, False), (True, True), (False, True)):
        known = task(dimensions, channels, case.regions, batch_dice=batch_dice, scale_weights=(0.75, 0.25))
        output = case.output(case.first, half)
        loss = admitted_supervised(output, case.labels, admitted, known, of_admitted)
        assert check_finite(loss, case.first, case.second) >= -1 - 1e-4
        nothing = admitted_supervised(output, case.labels, torch.zeros_like(admitted), known, of_admitted)
        gradients = torch.autograd.grad(nothing, (case.first, case.second))
        assert not any(gradient.any() for gradient in gradients)
        close(nothing.detach(), torch.tensor(0.0 if of_admitted and not batch_dice else -1.0))
        perfect = case.output(12e4 * (case.onehot - 0.5))
        right = admitted_supervised(perfect, case.labels, admitted, known, of_admitted)
        close(right, torch.tensor(-1.0) if case.valid.any() else nothing.detach())


@covers(masked_mse)
def test_masked_mse(case):
    first, second = (case.output(z).probs for z in (case.first, case.second))
    mask = case.valid[:, None]
    distance = check_finite(masked_mse(first, second, mask), case.first)
    assert 0 <= distance <= 1
    close(masked_mse(second, first, mask), distance)
    close(masked_mse(first.flip(0), second.flip(0), mask.flip(0)), distance)
    close(masked_mse(first, second, torch.ones_like(mask)), F.mse_loss(first, second))
    assert masked_mse(first, first.detach(), mask) == 0
    assert masked_mse(first, second, torch.zeros_like(mask)) == 0


@covers(weighted_dice)
def test_weighted_dice(case):
    probs = case.output(case.first).probs
    for batch_dice in (False, True):
        loss = check_finite(weighted_dice(probs, case.onehot, case.weights, batch_dice, case.valid), case.first)
        assert -case.weights.mean() - 1e-4 <= loss <= 0
        close(weighted_dice(probs.flip(0), case.onehot.flip(0), case.weights, batch_dice, case.valid.flip(0)), loss)
        perfect = weighted_dice(case.onehot, case.onehot, case.weights, batch_dice, case.valid)
        close(perfect, -case.weights.mean())
    nothing = torch.zeros_like(probs)
    assert torch.isfinite(weighted_dice(nothing, nothing, case.weights, False, smooth=0.0))


@covers(squared_dice)
def test_squared_dice(case):
    probs = case.output(case.first).probs
    loss = check_finite(squared_dice(probs, case.onehot), case.first)
    assert -1e-5 <= loss <= 1
    close(squared_dice(probs[:, case.order], case.onehot[:, case.order]), loss)
    close(squared_dice(probs.flip(0), case.onehot.flip(0)), loss)
    assert squared_dice(case.onehot, case.onehot).abs() < 1e-6


def check_divergence(function, case, symmetric):
    """Not negative, 0 between equals, no matter in which order channels and samples stand; per voxel."""
    first, second = case.output(case.first), case.output(case.second)
    rounding = 1e-6 + 3e-7 * (case.first.float() - case.second.float()).abs().max().item()
    whole = check_finite(function(first, second), case.first, case.second)
    assert whole.shape == (case.first.shape if case.regions else case.valid.shape)
    assert whole.min() >= -rounding
    assert not function(first, case.output(case.first.detach().clone())).abs().gt(1e-6).any()
    reordered = function(case.output(case.first[:, case.order]), case.output(case.second[:, case.order]))
    near = partial(torch.testing.assert_close, rtol=2e-5, atol=rounding)
    near(reordered, whole[:, case.order] if case.regions else whole)
    near(function(case.output(case.first.flip(0)), case.output(case.second.flip(0))), whole.flip(0))
    if symmetric:
        near(function(second, first), whole)
    return whole


@covers(symmetric_kl, kl)
def test_divergences_of_kullback_and_leibler(case):
    both = check_divergence(symmetric_kl, case, True)
    one, other = check_divergence(kl, case, False), kl(case.output(case.second), case.output(case.first)).detach()
    # where all is well scaled; the difference of large logarithms is not
    small = both < 10
    torch.testing.assert_close(((one + other) / 2)[small], both[small], atol=2e-3, rtol=2e-3)


@covers(soft_cross_entropy)
def test_soft_cross_entropy(case):
    """At least the target's entropy; with a sure target that of its labels."""
    target, said = case.output(case.second), case.output(case.first)
    losses = soft_cross_entropy(target.detach(), said)
    check_finite(losses.mean(), case.first)
    entropy = case.kind.of_channels(case.kind.entropy_of_logits(case.second))
    assert (losses - entropy >= -1e-3 * (1 + losses)).all()
    sure = case.output(torch.where(case.kind.masks(case.labels), 3e4, -3e4))
    close(soft_cross_entropy(sure, said).mean(), cross_entropy(said, case.labels))


@covers(jensen_shannon)
def test_jensen_shannon(case):
    assert check_divergence(jensen_shannon, case, True).max() <= 0.693148


@covers()
def test_log_probs(case):
    logs = check_finite(case.kind.log_probs(case.first), case.first)
    total = logs.exp().sum(0 if case.regions else 2)
    close(total, torch.ones_like(total))
    close(logs[0].exp(), case.output(case.first).probs.detach())


@covers()
def test_entropies(case):
    highest = case.kind.max_entropy
    probs = case.output(case.first).probs
    from_probs = check_finite(case.kind.entropy(probs), case.first)
    exact = check_finite(case.kind.entropy_of_logits(case.first), case.first)
    assert from_probs.shape == exact.shape
    assert exact.min() >= -2e-6 and exact.max() <= highest + 2e-6
    torch.testing.assert_close(from_probs, exact, atol=1e-4, rtol=0)
    close(case.kind.entropy_of_logits(torch.zeros_like(case.first)), torch.full_like(exact, highest))


@covers(weighted_supervised)
def test_weighted_supervised(case):
    """Over three scales, with and without an ignore label, which may cover all."""
    channels = case.first.shape[1]
    labels = case.labels if case.regions else case.labels[:, None].float()
    for ignore in (None, channels + case.regions):
        scale = labels
        if ignore is not None and case.regions:
            scale = torch.cat((labels, 1 - case.valid[:, None].float()), 1)
        elif ignore is not None:
            scale = torch.where(case.valid[:, None], labels, float(ignore))
        one, three = (target([scale] * number, channels, case.regions, ignore) for number in (1, 3))
        for batch_dice in (False, True):
            known = task(
                case.first.ndim - 2, channels, case.regions,
                ignore_label=ignore, batch_dice=batch_dice, scale_weights=(0.6, 0.4, 0.0),
            )  # fmt: skip
            output = case.output(case.first, case.second, case.first)
            check_finite(weighted_supervised(output, three, case.weights, known), case.first, case.second)
            alone = case.output(case.first)
            known = task(case.first.ndim - 2, channels, case.regions, ignore_label=ignore, scale_weights=(1.0,))
            assert torch.isfinite(weighted_supervised(alone, one, case.weights, known))


@covers(mutual_consistency)
def test_mutual_consistency(case):
    outputs = [case.output(case.first), case.output(case.second)]
    assert (loss := check_finite(mutual_consistency(outputs, 0.1), case.first, case.second)) >= 0
    close(mutual_consistency(outputs[::-1], 0.1, detach_targets=True), loss)


@covers(pooled, class_masks, affinity_distance)
def test_affinity_distance(case):
    masks = class_masks(case.target(case.labels), case.first.shape[2:])
    assert torch.equal(masks.any(1), case.valid & (case.onehot > 0).any(1))
    labeled, unlabeled = (pooled(features.sigmoid(), masks) for features in (case.first, case.second))
    for ways in ((True, True), (False, False)):
        assert check_finite(affinity_distance(labeled, unlabeled, *ways), case.first, case.second) >= 0
        assert affinity_distance(labeled, labeled, *ways) == 0


@covers(carried, dense_sparse, mean_per_patch)
def test_dense_sparse(case):
    """Of cases labeled in full, of which voxels that are ignored have no part."""
    known = task(case.first.ndim - 2, case.first.shape[1], case.regions, scale_weights=(1.0,))
    image = torch.zeros_like(case.first[:, :1]).detach()
    (goal, weights), _ = carried(Labeled(image, case.target(case.labels), ()), 0.9)
    loss = check_finite(dense_sparse(case.output(case.first), goal, weights, known), case.first)
    changed = torch.where(case.valid[:, None], case.first, case.second)
    close(dense_sparse(case.output(changed), goal, weights, known), loss)
    assert loss >= 0
    values = case.first[:, 0].float().sigmoid()
    close(mean_per_patch(values, torch.ones_like(values)), values.mean())


@covers(of_annotated)
def test_what_was_not_annotated_is_no_error(case):
    """Where no class was, nothing but background can be said."""
    missing = torch.ones(*case.first.shape[:2], *[1] * (case.first.ndim - 2), dtype=torch.bool)
    goal = replace(case.target(torch.zeros_like(case.labels)), missing=missing)
    output, goal = of_annotated(case.output(case.first), goal)
    assert goal.missing is None
    assert check_finite(output.kind.cross_entropy(output.logits, goal.labels, "mean"), case.first) < 1e-6


@covers(pyramid_consistency)
def test_pyramid_consistency(case):
    half = case.second[(..., *[slice(None, None, 2)] * (case.second.ndim - 2))]
    loss, divergence = pyramid_consistency([case.first, half], case.kind)
    assert check_finite(loss, case.first, case.second) >= -1e-5
    assert torch.isfinite(divergence) and not divergence.requires_grad
    assert pyramid_consistency([case.first, case.first], case.kind)[0].abs() < 1e-5


@covers(class_weights.agreement)
def test_class_weights(case):
    """Weights stay finite and within [0, C], whatever classes a batch lacks."""
    channels = case.first.shape[1]
    first, second = (case.output(z).hard for z in (case.first, case.second))
    for skip in (True, False):
        difficulty = class_weights.DifficultyWeights(case.kind, skip_absent=skip)
        counted = [made(case.kind) for made in class_weights.CountedWeights.__subclasses__()]
        for labels in (case.labels, first, second, case.labels):
            known = case.target(labels)
            w = difficulty.update(first, first, known)
            assert torch.isfinite(w).all() and w.min() >= 0 and w.max() <= channels * (1 + 1e-6)
            for weights in counted:
                w = weights.update(first, labels, known)
                assert torch.isfinite(w).all() and w.min() >= 0 and w.max() <= (channels + case.regions) * (1 + 1e-6)
    assert all(torch.isfinite(buffer).all() for buffer in difficulty.state_dict().values())


FRACTIONS = st.floats(0, 1)


@covers(soft_dice_distance)
def test_soft_dice_distance(case):
    p, q = case.output(case.first).probs, case.output(case.second).probs.detach()
    value = check_finite(soft_dice_distance(p, q), case.first)
    assert -1e-4 <= value <= 1
    close(soft_dice_distance(q, p.detach()), value)
    close(soft_dice_distance(p[:, case.order], q[:, case.order]), value)


@covers(sharpened, sharpened_per_channel)
def test_sharpening(case):
    output = case.output(case.first)
    for sharpen in (sharpened, sharpened_per_channel):
        sharp = check_finite(sharpen(output, 0.1), case.first)
        assert (sharp >= 0).all() and (sharp <= 1).all()
        close(sharpen(case.output(case.first[:, case.order]), 0.1), sharp[:, case.order])
        # temperature 1 changes nothing
        close(sharpen(output, 1.0), output.probs)
    if not case.regions:
        close(sharpened(output, 0.1).sum(1), torch.ones_like(output.probs[:, 0]))


@covers(contradiction, worst_case)
def test_worst_case(case):
    first, second = case.output(case.first), case.output(case.second)
    apart = check_finite(contradiction(first, second.hard), case.first)
    assert 0 <= apart <= 13.8156  # -ln 1e-6
    contrary = case.output(12e4 * (0.5 - case.onehot))
    close(contradiction(contrary, case.labels), torch.zeros(()))
    close(contradiction(case.output(12e4 * (case.onehot - 0.5)), case.labels), torch.tensor(13.815511))
    both = check_finite(worst_case((first, first), (second, second), 2.0), case.first)
    close(both, 2 * cross_entropy(first, second.hard) + apart)
    counted = check_finite(worst_case((first, first), (second, second), 2.0, case.valid), case.first)
    close(worst_case((first, first), (second, second), 2.0, torch.ones_like(case.valid)), both)
    if not case.valid.any():
        close(counted, apart)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(fraction=FRACTIONS, later=FRACTIONS, length=FRACTIONS, step=st.integers(0, 10**9))
def test_schedules_stay_in_range_and_move_one_way(fraction, later, length, step):
    fraction, later = sorted((fraction, later))
    assert 0.0067 < gaussian_rampup(fraction, length) <= gaussian_rampup(later, length) <= 1
    assert 0 <= reversal_coefficient(fraction, length, 0.1) <= reversal_coefficient(later, length, 0.1) <= 0.1
    assert 0 <= ema_decay(step, length) <= ema_decay(step + 1, length) <= length
    if length < 1:
        assert 0 <= polynomial_decay(fraction, length) <= 1
        if fraction >= length:
            assert polynomial_decay(later, length) <= polynomial_decay(fraction, length)


@pytest.mark.parametrize("name", OPERATIONS)
@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(
    spatial=st.lists(st.integers(1, 9), min_size=2, max_size=3).filter(lambda shape: max(shape) > 1),
    scale=st.sampled_from([0.0, 1e-6, 1.0, 1e4, 6e4]),
    offset=st.sampled_from([0.0, -1.0, 1e4]),
    level=st.floats(0, 1),
)
def test_changes_of_intensity_stay_finite(name, spatial, scale, offset, level):
    image = offset + scale * torch.randn(2, 3, *spatial, generator=torch.Generator().manual_seed(0))
    changed = OPERATIONS[name](image, torch.full((2,), level))
    assert changed.shape == image.shape and torch.isfinite(changed).all()
    assert changed.abs().max() <= 10 * image.abs().max() + 2
