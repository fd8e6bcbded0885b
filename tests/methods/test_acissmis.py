"""ACISSMIS against its closed forms."""

import pytest
import torch
from torch.nn import functional as F
from workbench import output, task, tiny_architecture

from nnunet_ssl.memory.class_confidence import FuzzyConfidence, FuzzyConfidenceDHC
from nnunet_ssl.method import Labeled, Now, Unlabeled
from nnunet_ssl.methods.acissmis import ACISSMIS
from nnunet_ssl.methods.acissmis_dhc import ACISSMISDHC

BOTH = pytest.mark.parametrize("made", [ACISSMIS, ACISSMISDHC])


def now(step, epoch=0):
    return Now(step=step, epoch=epoch, fraction=1.0)


def ready(tiny_net, made=ACISSMIS, dimensions=2, channels=4, regions=False, **arguments):
    net, method = tiny_net(dimensions, channels, regions=regions), made(**({"rampup": 0.0} | arguments))
    method.task = task(dimensions, channels, regions)
    method.setup(net, tiny_architecture(dimensions, channels, seed=7))
    method.supervised = lambda output, target: output.logits.sum() * 0
    return net, method


def batch(dimensions=2, channels=4):
    torch.manual_seed(3)
    shape = (2, 1, *[16] * dimensions)
    labels = torch.randint(0, channels, shape).float()
    return Labeled(torch.randn(shape), task(dimensions, channels).target(labels)), Unlabeled(torch.randn(shape))


def away(teacher):
    """The teacher says something else than the student."""
    torch.manual_seed(11)
    for parameter in teacher.module.parameters():
        parameter.add_(torch.randn_like(parameter))


@BOTH
@pytest.mark.parametrize("dimensions", [2, 3])
def test_it_begins_as_a_mean_teacher_whose_pseudo_labels_weigh_by_confidence(tiny_net, made, dimensions):
    net, method = ready(tiny_net, made, dimensions)
    away(method.teacher)
    labeled, unlabeled = batch(dimensions)
    z, y = net(unlabeled.weak).logits, method.teacher(unlabeled.weak).hard
    assert 0 < (z.argmax(1) == y).float().mean() < 1
    term = method.losses(net, labeled, unlabeled, now(0))["pseudo"]
    confidence = z.softmax(1).amax(1).detach()
    torch.testing.assert_close(term, (confidence**1.5 * F.cross_entropy(z, y, reduction="none")).mean())
    assert method.report["sampled"] == 1 and method.report["rate[channel_3]"] == 1


def test_without_confidence_it_is_plain_cross_entropy(tiny_net):
    net, method = ready(tiny_net, beta=0.0)
    away(method.teacher)
    labeled, unlabeled = batch()
    term = method.losses(net, labeled, unlabeled, now(0))["pseudo"]
    expected = F.cross_entropy(net(unlabeled.weak).logits, method.teacher(unlabeled.weak).hard)
    torch.testing.assert_close(term, expected)


def test_gradients_are_those_of_the_cross_entropy_alone(tiny_net):
    """The confidence that weighs a voxel has none."""
    net, method = ready(tiny_net)
    labeled, unlabeled = batch()
    method.losses(net, labeled, unlabeled, now(0))["pseudo"].backward()
    found = [p.grad.clone() for p in net.module.parameters() if p.grad is not None]
    net.module.zero_grad()
    z, y = net(unlabeled.weak).logits, method.teacher(unlabeled.weak).hard
    (z.detach().softmax(1).amax(1) ** 1.5 * F.cross_entropy(z, y, reduction="none")).mean().backward()
    expected = [p.grad for p in net.module.parameters() if p.grad is not None]
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-4)


def test_voxels_are_left_out_by_what_the_student_says(tiny_net):
    """Of a class with rate 0 no voxel counts, of one with rate 1 every one, whatever the teacher says."""
    net, method = ready(tiny_net, beta=0.0)
    away(method.teacher)
    labeled, unlabeled = batch()
    z, y = net(unlabeled.weak).logits, method.teacher(unlabeled.weak).hard
    c = z.argmax(1)
    whole = int(c.flatten().mode()[0])
    method.scores.score.copy_(1 - F.one_hot(torch.tensor(whole), 4))
    term = method.losses(net, labeled, unlabeled, now(0))["pseudo"]
    torch.testing.assert_close(term, ((c == whole) * F.cross_entropy(z, y, reduction="none")).mean())
    assert 0 < method.report["sampled"] == (c == whole).float().mean() < 1


def test_share_of_voxels_that_are_left(tiny_net):
    _, method = ready(tiny_net, beta=0.0)
    method.scores.score.copy_(torch.tensor([0.2, 0.4, 0.6, 1.0]))
    said = torch.arange(4).repeat(16_000).view(1, -1, 160)
    torch.manual_seed(0)
    left = method.weights(output(F.one_hot(said, 4).movedim(-1, 1).float()))
    shares = torch.stack([left[said == k].mean() for k in range(4)])
    torch.testing.assert_close(shares, torch.tensor([1, 0.487139, 0.176777, 0]), atol=0.01, rtol=0)


def test_weights_are_the_confidence_to_the_power_of_beta(tiny_net):
    _, method = ready(tiny_net)
    weights = method.weights(output(torch.tensor([0.64, 0.16, 0.1, 0.1]).log().view(1, 4, 1, 1)))
    assert weights.item() == pytest.approx(0.512)


@BOTH
def test_score_moves_at_the_end_of_each_interval_by_the_labeled_patches_of_it(tiny_net, made):
    net, method = ready(tiny_net, made, interval=2)
    labeled, unlabeled = batch()
    alone = made.memory(method.task.kind)
    for step in range(4):
        method.losses(net, labeled, unlabeled, now(step))
        alone.add(net(labeled.image), labeled.target)
        if step % 2:
            alone.refresh()
        assert torch.equal(method.scores.score, alone.score) and torch.equal(method.scores.sums, alone.sums)
    assert alone.score.max() == pytest.approx(0.0199) and not alone.sums.any()


def test_the_teacher_follows_steps_and_in_dhcs_code_epochs(tiny_net):
    for made, share in ((ACISSMIS, 0.99), (ACISSMISDHC, 0.5)):
        net, method = ready(tiny_net, made)
        before = [p.clone() for p in method.teacher.module.parameters()]
        with torch.no_grad():
            for parameter in net.module.parameters():
                parameter.add_(1.0)
        method.after_step(net, now(step=300, epoch=1))
        for old, new in zip(before, method.teacher.module.parameters(), strict=True):
            torch.testing.assert_close(new, old + 1 - share)
    method.after_step(net, now(step=249, epoch=0))
    assert all(map(torch.equal, method.teacher.module.parameters(), net.module.parameters()))


def test_regions_are_sampled_one_by_one(tiny_net):
    net, method = ready(tiny_net, channels=2, regions=True, beta=0.0)
    said = torch.tensor([[1.0, -1.0], [1.0, -1.0]]).view(1, 2, 2, 1)
    method.scores.score.copy_(torch.tensor([0.0, 1.0]))
    assert method.weights(output(said, True)).flatten().tolist() == [1, 1, 0, 0]
    method.scores.score.zero_()
    labels = torch.randint(0, 2, (2, 2, 16, 16)).float()
    labeled = Labeled(torch.randn(2, 1, 16, 16), method.task.target(labels))
    away(method.teacher)
    unlabeled = batch()[1]
    term = method.losses(net, labeled, unlabeled, now(0))["pseudo"]
    goal = (method.teacher(unlabeled.weak).logits > 0).float()
    torch.testing.assert_close(term, F.binary_cross_entropy_with_logits(net(unlabeled.weak).logits, goal))


def test_ignored_voxels_count_in_no_score(tiny_net):
    net, method = ready(tiny_net, interval=1)
    method.task = task(2, 4, ignore_label=4)
    labeled, unlabeled = batch()
    ignored = method.task.target(torch.full_like(labeled.target.full, 4.0))
    before = method.scores.indicators.clone()
    term = method.losses(net, Labeled(labeled.image, ignored), unlabeled, now(0))["pseudo"]
    assert torch.equal(method.scores.indicators, before) and term.isfinite()


def test_the_student_predicts(tiny_net):
    net, method = ready(tiny_net)
    assert method.deployed(net) is net.module


def test_presets():
    assert ACISSMIS.of_preset("dhc")[0] is ACISSMISDHC and ACISSMISDHC.memory is FuzzyConfidenceDHC
    assert ACISSMIS.of_preset("published") == (ACISSMIS, {}) and ACISSMIS.memory is FuzzyConfidence
    method = ACISSMIS()
    assert (method.gamma, method.beta, method.interval, method.momentum) == (2.5, 1.5, 250, 0.99)
    assert method.ramped_weight(now(0)) == 1 and method.ema_decay == 0.99


@pytest.mark.parametrize(
    "wrong", [{"gamma": -1.0}, {"beta": -1.0}, {"interval": 0}, {"momentum": 2.0}, {"weight": -1.0}]
)
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ACISSMIS(**wrong)
