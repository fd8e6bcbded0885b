"""DePL against its closed forms."""

import pytest
import torch
from torch.nn import functional as F
from workbench import output, task, tiny_architecture

from nnunet_ssl.losses.confidence import admitted_cross_entropy
from nnunet_ssl.method import Labeled, Now, Unlabeled
from nnunet_ssl.methods.depl import DePL
from nnunet_ssl.networks.average import Average

END = Now(step=9, epoch=9, fraction=1.0)
Z, Q = (2.0, 1.0, 0.5), (0.7, 0.2, 0.1)


def one_voxel(*logits, regions=False):
    return output(torch.tensor(logits).view(1, -1, 1, 1).requires_grad_(), regions)


def ready(tiny_net, channels=3, regions=False, dimensions=2, **arguments):
    net, method = tiny_net(dimensions, channels, regions=regions), DePL(**arguments)
    method.task = task(dimensions, channels, regions)
    method.setup(net, tiny_architecture(dimensions, channels, seed=7))
    method.supervised = lambda output, target: output.logits.sum() * 0
    return net, method


def prior_of(method, q=Q):
    prior = method.priors[0]
    prior.q.copy_(torch.tensor(q).view(-1, 1, 1))
    return prior


@pytest.mark.parametrize(
    ("strength", "expected"),
    [
        (0.0, (0.628532, 0.231224, 0.140244)),
        (1.0, (0.259775, 0.334480, 0.405745)),
        (0.5, (0.438869, 0.302047, 0.259085)),
    ],
)
def test_debiased_pseudo_labels(tiny_net, strength, expected):
    _, method = ready(tiny_net, strength=strength)
    logits = torch.tensor(Z) - strength * prior_of(method).logits().flatten()
    torch.testing.assert_close(logits.softmax(0), torch.tensor(expected), atol=1e-6, rtol=0)
    for threshold, admitted in ((max(expected) - 1e-4, True), (max(expected) + 1e-4, False)):
        method.threshold = threshold
        labels, passes = method.pseudo_labels_of(one_voxel(*Z), prior_of(method))
        assert labels.item() == expected.index(max(expected)) and passes.item() is admitted


@pytest.mark.parametrize(("margin", "expected"), [(True, 2.381142), (False, 1.464369)])
def test_margin_of_unlabeled_voxels_alone(tiny_net, margin, expected):
    _, method = ready(tiny_net, margin=margin, strength=1.0)
    seg, free = one_voxel(*Z), one_voxel(*Z)
    learner = method.learner(seg, free, prior_of(method))
    losses = learner.kind.cross_entropy(learner.logits, torch.ones(2, 1, 1, dtype=torch.long)).flatten()
    assert losses.tolist() == pytest.approx([1.464369, expected], abs=1e-6)
    mean = admitted_cross_entropy(
        learner, torch.ones(2, 1, 1, dtype=torch.long), torch.tensor([False, True]).view(2, 1, 1)
    )
    assert mean.item() == pytest.approx(expected / 2, abs=1e-6)


@pytest.mark.parametrize("regions", [False, True])
def test_a_uniform_prior_changes_nothing(tiny_net, regions):
    _, method = ready(tiny_net, regions=regions, threshold=0.6)
    prior = method.priors[0]
    seg, free = one_voxel(*Z, regions=regions), one_voxel(2.0, -1.0, 0.1, regions=regions)
    labels, admitted = method.pseudo_labels_of(free, prior)
    assert torch.equal(labels, free.hard) and torch.equal(admitted, free.confidence >= 0.6)
    both = output(torch.cat((seg.logits, free.logits)), regions)
    torch.testing.assert_close(method.learner(seg, free, prior).probs, both.probs)


def batch(dimensions=2, channels=3):
    torch.manual_seed(3)
    shape = (2, 1, *[16] * dimensions)
    labels = torch.randint(0, channels, shape).float()
    return Labeled(torch.randn(shape), task(dimensions, channels).target(labels)), Unlabeled(weak=torch.randn(shape))


@pytest.mark.parametrize("dimensions", [2, 3])
def test_strength_zero_is_cps_with_a_threshold_on_all_patches(tiny_net, dimensions):
    net, method = ready(tiny_net, dimensions=dimensions, strength=0.0, threshold=0.4, rampup=0.0)
    labeled, unlabeled = batch(dimensions)
    term = method.losses(net, labeled, unlabeled, END)["cross"]
    images = torch.cat((labeled.image, unlabeled.weak))
    a, b = net(images).logits, method.second(images).logits

    def taught(learner, teacher):
        confidence, y = teacher.softmax(1).max(1)
        assert 0 < (confidence >= 0.4).float().mean() < 1
        return ((confidence >= 0.4) * F.cross_entropy(learner, y, reduction="none")).mean()

    torch.testing.assert_close(term, taught(a, b) + taught(b, a))


def test_pseudo_labels_come_from_the_prior_before_the_step_and_the_margin_from_that_after_it(tiny_net):
    """A has the margin of its own q, which unlabeled patches alone move."""
    net, method = ready(tiny_net, threshold=0.0, momentum=0.5, rampup=0.0, strength=1.0)
    for prior, q in zip(method.priors, (Q, (0.1, 0.6, 0.3)), strict=True):
        prior.q.copy_(torch.tensor(q).view(3, 1, 1))
    before = [prior.q.clone() for prior in method.priors]
    labeled, unlabeled = batch()
    term = method.losses(net, labeled, unlabeled, END)["cross"]
    images = torch.cat((labeled.image, unlabeled.weak))
    logits = [net(images).logits, method.second(images).logits]
    y = [(z - q.log()).argmax(1) for z, q in zip(logits, before, strict=True)]
    after = [(q + z[2:].softmax(1).mean((0, 2, 3)).view(3, 1, 1)) / 2 for z, q in zip(logits, before, strict=True)]
    for prior, q in zip(method.priors, after, strict=True):
        torch.testing.assert_close(prior.q, q)
    z_a, z_b = (torch.cat((z[:2], z[2:] + q.log())) for z, q in zip(logits, after, strict=True))
    torch.testing.assert_close(term, F.cross_entropy(z_a, y[1]) + F.cross_entropy(z_b, y[0]))


def test_dhcs_code_has_a_prior_at_each_position_and_no_margin(tiny_net):
    chosen, values = DePL.of_preset("dhc")
    assert chosen is DePL
    net, method = ready(tiny_net, **values, rampup=0.0)
    labeled, unlabeled = batch()
    method.losses(net, labeled, unlabeled, END)
    assert method.priors[1].q.shape == (3, 16, 16)
    expected = 0.99 / 3 + 0.01 * method.second(unlabeled.weak).probs.mean(0)
    torch.testing.assert_close(method.priors[1].q, expected)
    seg, free = net(labeled.image), net(unlabeled.weak)
    learner = method.learner(seg, free, method.priors[0])
    assert torch.equal(learner.logits, torch.cat((seg.logits, free.logits)))


def test_what_is_never_said_is_not_all_pseudo_labels(tiny_net):
    _, method = ready(tiny_net)
    prior = prior_of(method, (1.0, 0.0, 0.0))
    labels, _ = method.pseudo_labels_of(one_voxel(20.0, 0.0, 0.0), prior)
    assert labels.item() == 0  # 20 against 13.8
    learner = method.learner(one_voxel(*Z), one_voxel(*Z), prior)
    assert learner.logits.isfinite().all()


def test_regions_are_debiased_one_by_one(tiny_net):
    _, method = ready(tiny_net, channels=2, regions=True, threshold=0.6, strength=1.0)
    prior = prior_of(method, (0.1, 0.5))  # ln q / (1 - q) = -2.197, 0
    labels, admitted = method.pseudo_labels_of(one_voxel(-1.0, -1.0, regions=True), prior)
    assert labels.flatten().tolist() == [1, 0] and admitted.all()
    learner = method.learner(one_voxel(0.0, 0.0, regions=True), one_voxel(0.0, 0.0, regions=True), prior)
    torch.testing.assert_close(learner.probs[1].flatten(), torch.tensor([0.1, 0.5]))


def test_ignored_voxels_count_in_the_supervised_terms_alone(tiny_net):
    net, method = ready(tiny_net, threshold=0.4)
    labeled, unlabeled = batch()
    ignoring = task(2, 3, ignore_label=3)
    all_ignored = Labeled(labeled.image, ignoring.target(torch.full((2, 1, 16, 16), 3.0)))
    state = {name: value.clone() for name, value in method.state_dict().items()}
    first = method.losses(net, labeled, unlabeled, END)["cross"]
    method.load_state_dict(state)
    assert torch.equal(method.losses(net, all_ignored, unlabeled, END)["cross"], first)


def test_both_networks_predict_as_they_are(tiny_net):
    net, method = ready(tiny_net)
    prior_of(method)
    image = torch.randn(1, 1, 16, 16)
    expected = (net(image).logits + method.second(image).logits) / 2
    deployed = method.deployed(net)
    torch.testing.assert_close(deployed(image)[0], expected)
    assert isinstance(deployed, Average)
    DePL.model(tiny_architecture(2, 3)).load_state_dict(deployed.state_dict())


@pytest.mark.parametrize("wrong", [{"threshold": 1.1}, {"strength": -1.0}, {"momentum": 2.0}, {"weight": -1.0}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DePL(**wrong)
