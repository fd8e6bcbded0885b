"""SimiS: losses against their closed forms, with weights that follow what both kinds of patches say."""

import pytest
import torch
from torch.nn import functional as F
from workbench import output, task, tiny_architecture
from workbench import target as target_of

from nnunet_ssl.losses.cross_entropy import cross_entropy
from nnunet_ssl.losses.dice import weighted_dice
from nnunet_ssl.method import Labeled, Now, Unlabeled
from nnunet_ssl.methods.cps import CPS
from nnunet_ssl.methods.simis import SimiS
from nnunet_ssl.networks.average import Average

COUNTS = torch.tensor([900.0, 70.0, 20.0, 10.0], dtype=torch.float64)


def now(step):
    return Now(step=step, epoch=0, fraction=1.0)


def ready(tiny_net, method=SimiS, dimensions=2, channels=4, regions=False, ignore=None, **arguments):
    net, made = tiny_net(dimensions, channels, regions), method(**arguments)
    counts = {} if regions else {"voxel_counts": lambda: COUNTS}
    made.task = task(dimensions, channels, regions, ignore_label=ignore, **counts)
    made.setup(net, tiny_architecture(dimensions, channels, seed=7))
    return net, made


def batch(dimensions=2, channels=4):
    torch.manual_seed(3)
    shape = (2, 1, *[16] * dimensions)
    labels = torch.randint(0, channels, shape)
    small = labels[(slice(None), slice(None), *[slice(None, None, 2)] * dimensions)]
    return Labeled(torch.randn(shape), target_of([labels, small], channels)), Unlabeled(torch.randn(shape))


def weighted(logits, labels, w):
    """Cross-entropy as torch has it, and minus the mean of the weighted Dice of the foreground, per sample."""
    axes, y = tuple(range(2, logits.ndim)), F.one_hot(labels, len(w)).movedim(-1, 1)
    p = logits.softmax(1)
    dice = (2 * (p * y).sum(axes) + 1e-5) / (p.sum(axes) + y.sum(axes) + 1e-5)
    return F.cross_entropy(logits, labels, w), -(w * dice)[:, 1:].mean()


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_step_is_cps_with_the_class_weights_of_each_network(tiny_net, dimensions):
    net, method = ready(tiny_net, dimensions=dimensions, weight=0.5, momentum=0.9, floor=0.0)
    labeled, unlabeled = batch(dimensions)
    terms = method.losses(net, labeled, unlabeled, now(0))
    images = torch.cat((labeled.image, unlabeled.weak))
    pyramids = net.network(images), method.twin(images)
    found, crosses = [], []
    for pyramid in pyramids:
        counts = torch.bincount(pyramid[0].argmax(1).flatten(), minlength=4) / images.numel()
        first = 0.9 * 4 + 0.1 * 4 * (0.9 - COUNTS / 1000)
        found.append((0.9 * first + 0.1 * 4 * (counts.max() - counts)).float())
    for n, (pyramid, w) in enumerate(zip(pyramids, found, strict=True)):
        scales = [sum(weighted(z[:2], y[:, 0], w)) for z, y in zip(pyramid, labeled.target.scales, strict=True)]
        name = ("supervised", "supervised_twin")[n]
        torch.testing.assert_close(terms[name], (2 * scales[0] + scales[1]) / 3)
        crosses.append(F.cross_entropy(pyramid[0], pyramids[1 - n][0].argmax(1), w))
    torch.testing.assert_close(terms["cross"], 0.5 * sum(crosses))
    names = [f"class_weight_{n}[{c}]" for n in "AB" for c in method.task.channels]
    torch.testing.assert_close(torch.stack([method.report[name] for name in names]), torch.cat(found))
    assert not torch.equal(*found)


def test_constant_weights_leave_the_cross_entropy_and_scale_the_dice():
    torch.manual_seed(0)
    logits, labels, ones = torch.randn(2, 4, 6), torch.randint(0, 4, (2, 6)), torch.ones(4)
    plain = cross_entropy(output(logits), labels)
    torch.testing.assert_close(cross_entropy(output(logits), labels, 2.5 * ones), plain)
    y = F.one_hot(labels, 4).movedim(-1, 1)[:, 1:]
    dice = [weighted_dice(logits.softmax(1)[:, 1:], y, each, batch_dice=False) for each in (ones[1:], 2.5 * ones[1:])]
    torch.testing.assert_close(dice[1], 2.5 * dice[0])


def test_with_weights_that_do_not_move_the_cross_term_is_that_of_cps(tiny_net):
    net, method = ready(tiny_net, momentum=1.0)
    _, plain = ready(tiny_net, CPS, labeled_too=True)
    plain.supervised = lambda output, target: output.logits.mean()
    labeled, unlabeled = batch()
    terms = method.losses(net, labeled, unlabeled, now(0))
    torch.testing.assert_close(terms["cross"], plain.losses(net, labeled, unlabeled, now(0))["cross"])
    assert [method.report[f"class_weight_A[channel_{c}]"] for c in range(4)] == [4, 4, 4, 4]


@pytest.mark.parametrize(("arguments", "background"), [({}, True), ({"floor": 0.0}, False)])
def test_the_floor_keeps_the_background_in_the_cross_entropy(tiny_net, arguments, background):
    """Targets that are background alone, when its weight has come down."""
    net, method = ready(tiny_net, **arguments)
    for weights in method.debiasing:
        weights.average.copy_(torch.tensor([0.0, 3.3, 3.5, 3.6]))
    method.debiasing[0].momentum = method.debiasing[1].momentum = 1.0
    for network in (net.module, method.twin):
        for head in network.decoder.seg_layers:
            torch.nn.init.zeros_(head.weight)
            head.bias.data.copy_(torch.tensor([2.0, 0.0, 0.0, 0.0]))
    labeled, unlabeled = batch()
    labeled = Labeled(labeled.image, target_of([torch.zeros_like(scale) for scale in labeled.target.scales], 4))
    terms = method.losses(net, labeled, unlabeled, now(1))
    sum(terms.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in net.module.parameters() if parameter.grad is not None)
    surprise = F.cross_entropy(torch.tensor([2.0, 0.0, 0.0, 0.0]), torch.tensor(0)).item()
    assert terms["cross"].item() == pytest.approx(2 * 0.1 * surprise if background else 0, rel=1e-5)


def test_the_counts_of_the_labeled_cases_are_taken_once(tiny_net):
    net, method = ready(tiny_net)
    method.losses(net, *batch(), now(0))
    method.task = task(2, 4, voxel_counts=lambda: 1 / 0)
    before = method.debiasing[0].average.clone()
    method.losses(net, *batch(), now(1))
    assert not torch.equal(method.debiasing[0].average, before)
    assert sorted(name for name in method.state_dict() if name.startswith("debiasing")) == [
        "debiasing.0.average",
        "debiasing.1.average",
    ]


def test_ignored_voxels_count_neither_in_losses_of_labels_nor_in_weights(tiny_net):
    net, method = ready(tiny_net, ignore=4, momentum=0.0)
    labeled, unlabeled = batch()
    ignored = method.task.target([torch.full_like(scale, 4) for scale in labeled.target.scales])
    terms = method.losses(net, Labeled(labeled.image, ignored), unlabeled, now(1))
    assert all(term.isfinite() for term in terms.values()) and terms["cross"] > 0
    share = net(unlabeled.weak).hard.flatten().bincount(minlength=4) / unlabeled.weak.numel()
    expected = (4 * (share.max() - share)).clamp_min(0.04)
    torch.testing.assert_close(
        torch.stack([method.report[f"class_weight_A[channel_{c}]"] for c in range(4)]), expected, atol=2e-3, rtol=0
    )


def test_regions_have_the_background_as_one_more_entry(tiny_net):
    net, method = ready(tiny_net, channels=2, regions=True)
    labels = torch.zeros(2, 2, 16, 16)
    labels[:, 0, :8] = labels[:, 1, :4] = 1
    labeled = Labeled(torch.randn(2, 1, 16, 16), method.task.target([labels, labels[..., ::2, ::2]]))
    terms = method.losses(net, labeled, batch()[1], now(0))
    assert all(term.isfinite() for term in terms.values())
    assert [len(weights.average) for weights in method.debiasing] == [3, 3]


def test_both_networks_predict(tiny_net):
    net, method = ready(tiny_net)
    image = torch.randn(1, 1, 16, 16)
    deployed = method.deployed(net)
    torch.testing.assert_close(deployed(image)[0], (net(image).logits + method.second(image).logits) / 2)
    assert isinstance(deployed, Average)
    SimiS.model(tiny_architecture(2, 4)).load_state_dict(deployed.state_dict())


def test_presets():
    assert SimiS.presets == {"dhc": {"floor": 0.0}, "published": {"floor": 0.0}}
    assert (SimiS().momentum, SimiS().floor, SimiS().weight, SimiS().rampup) == (0.99, 0.01, 0.1, 1.0)


@pytest.mark.parametrize("wrong", [{"momentum": 2.0}, {"floor": -0.1}, {"weight": -1.0}, {"rampup": 2.0}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SimiS(**wrong)
