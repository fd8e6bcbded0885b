"""Adsh against its closed forms."""

import math

import pytest
import torch
from torch.nn import functional as F
from workbench import output, task, tiny_architecture

from nnunet_ssl.losses.confidence import admitted_cross_entropy
from nnunet_ssl.memory.adaptive_thresholds import AdaptiveThresholds, ScoreThresholds
from nnunet_ssl.method import Labeled, Now, Unlabeled
from nnunet_ssl.methods.adsh import Adsh
from nnunet_ssl.methods.adsh_dhc import AdshDHC
from nnunet_ssl.networks.average import Average


def now(step):
    return Now(step=step, epoch=0, fraction=1.0)


def ready(tiny_net, made=Adsh, dimensions=2, regions=False, **arguments):
    net, method = tiny_net(dimensions, 3, regions=regions), made(**({"weight": 1.0, "rampup": 0.0} | arguments))
    method.task = task(dimensions, 3, regions)
    method.setup(net, tiny_architecture(dimensions, 3, seed=7))
    method.supervised = lambda output, target: output.logits.sum() * 0
    return net, method


def batch(dimensions=2):
    torch.manual_seed(3)
    shape = (2, 1, *[16] * dimensions)
    labels = torch.randint(0, 3, shape).float()
    return Labeled(torch.randn(shape), task(dimensions, 3).target(labels)), Unlabeled(torch.randn(shape))


def logits_of(net, method, labeled, unlabeled):
    images = torch.cat((labeled.image, unlabeled.weak))
    return net(images).logits, method.second(images).logits


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("made", [Adsh, AdshDHC])
def test_with_all_thresholds_zero_it_is_cps_on_all_patches(tiny_net, made, dimensions):
    net, method = ready(tiny_net, made, dimensions)
    labeled, unlabeled = batch(dimensions)
    a, b = logits_of(net, method, labeled, unlabeled)
    term = method.losses(net, labeled, unlabeled, now(0))["cross"]
    torch.testing.assert_close(term, F.cross_entropy(a, b.argmax(1)) + F.cross_entropy(b, a.argmax(1)))
    assert method.report["admitted"] == 1


def test_each_network_learns_what_the_other_is_sure_enough_of(tiny_net):
    net, method = ready(tiny_net)
    labeled, unlabeled = batch()
    a, b = logits_of(net, method, labeled, unlabeled)
    y_a, y_b = a.argmax(1), b.argmax(1)
    taught = []
    for thresholds, z, y in zip(method.thresholds, (a, b), (y_a, y_b), strict=True):
        confidence = z.softmax(1).amax(1)
        middle = [confidence[y == k].median() if (y == k).any() else 0.5 for k in range(3)]
        thresholds.thresholds.copy_(torch.tensor(middle))
        taught.append(confidence >= thresholds.thresholds[y])
    assert all(0 < admitted.float().mean() < 1 for admitted in taught)
    term = method.losses(net, labeled, unlabeled, now(0))["cross"]
    first = (taught[1] * F.cross_entropy(a, y_b, reduction="none")).mean()
    second = (taught[0] * F.cross_entropy(b, y_a, reduction="none")).mean()
    torch.testing.assert_close(term, first + second)
    torch.testing.assert_close(method.report["admitted"], taught[0].float().mean())


def test_the_loss_is_a_mean_over_all_voxels():
    logits = torch.tensor([2.0, 1.0, -1.0]).view(1, 3, 1, 1).repeat(1, 1, 2, 1)
    loss = admitted_cross_entropy(
        output(logits), torch.zeros(1, 2, 1, dtype=torch.long), torch.tensor([[[True], [False]]])
    )
    assert loss.item() == pytest.approx(0.349012 / 2, abs=1e-6)


@pytest.mark.parametrize("made", [Adsh, AdshDHC])
def test_thresholds_come_from_the_unlabeled_patches_of_an_interval(tiny_net, made):
    net, method = ready(tiny_net, made, interval=2, majority_threshold=0.4)
    alone = made.memory(method.task.kind, 0.4)
    labeled, unlabeled = batch()
    for step in range(2):
        assert not method.thresholds[0].thresholds.any()
        method.losses(net, labeled, unlabeled, now(step))
        method.after_step(net, now(step))
        alone.record(net(unlabeled.weak))
    alone.refresh()
    assert torch.equal(method.thresholds[0].thresholds, alone.thresholds) and alone.thresholds.any()
    assert not torch.equal(method.thresholds[1].thresholds, alone.thresholds)


@pytest.mark.parametrize(
    ("gate", "loss", "gradient"),
    [
        ((0, 0, 0), math.log(3), (0.0, 0.0, 0.0)),
        ((1, 0, 0), 0.239545, (-0.213014, 0.0, 0.0)),
        ((0, 1, 0), 1.551445, (0.0, 0.576117, 0.0)),
        ((1, 1, 1), 0.349012, None),
    ],
)
def test_dhcs_code_masks_logits(tiny_net, gate, loss, gradient):
    """B says class 0 for sure; of its scores those of `gate` pass, and A learns with the logits of these."""
    _, method = ready(tiny_net, AdshDHC)
    scores = torch.tensor([0.6, 0.3, 0.1])
    a = output(torch.tensor([2.0, 1.0, -1.0]).view(1, 3, 1, 1).requires_grad_())
    b = output(scores.log().view(1, 3, 1, 1))
    method.thresholds[1].thresholds.copy_(torch.where(torch.tensor(gate).bool(), 0.0, 1.0))
    method.thresholds[0].thresholds.fill_(1.0)  # nothing of A's passes: ln 3 for B
    found = method.cross(a, b)
    assert found.item() - math.log(3) == pytest.approx(loss, abs=1e-6)
    found.backward()
    if gradient is not None:
        torch.testing.assert_close(a.logits.grad.flatten(), torch.tensor(gradient), atol=1e-6, rtol=0)


def test_presets():
    assert Adsh.of_preset("dhc")[0] is AdshDHC and AdshDHC.memory is ScoreThresholds
    assert AdshDHC().interval == 26 and AdshDHC().majority_threshold == 0.9 and AdshDHC().weight == 0.1
    assert Adsh.memory is AdaptiveThresholds and Adsh().interval == 250 and Adsh().weight == 0.1
    chosen, values = Adsh.of_preset("published")
    assert chosen is Adsh and chosen(**values).ramped_weight(Now(0, 0, 0.0)) == 1


@pytest.mark.parametrize("made", [Adsh, AdshDHC])
def test_regions(tiny_net, made):
    net, method = ready(tiny_net, made, regions=True, interval=1, majority_threshold=0.55)
    labeled, unlabeled = batch()
    labels = torch.cat([(labeled.target.full > c).float() for c in range(3)], 1)
    labeled = Labeled(labeled.image, method.task.target(labels))
    a, b = logits_of(net, method, labeled, unlabeled)
    term = method.losses(net, labeled, unlabeled, now(0))["cross"]
    bce = F.binary_cross_entropy_with_logits
    torch.testing.assert_close(term, bce(a, (b > 0).float()) + bce(b, (a > 0).float()))
    method.after_step(net, now(0))
    assert method.thresholds[0].thresholds.shape == ((3,) if made is AdshDHC else (6,))
    method.losses(net, labeled, unlabeled, now(1))["cross"].backward()
    assert 0 < method.report["admitted"] < 1
    assert all(p.grad.isfinite().all() for p in net.module.parameters() if p.grad is not None)


def test_ignored_voxels_count_in_the_supervised_terms_alone(tiny_net):
    net, method = ready(tiny_net)
    labeled, unlabeled = batch()
    ignored = task(2, 3, ignore_label=3).target(torch.full((2, 1, 16, 16), 3.0))
    first = method.losses(net, labeled, unlabeled, now(0))["cross"]
    assert torch.equal(method.losses(net, Labeled(labeled.image, ignored), unlabeled, now(1))["cross"], first)


def test_both_networks_predict(tiny_net):
    net, method = ready(tiny_net)
    image = torch.randn(1, 1, 16, 16)
    deployed = method.deployed(net)
    torch.testing.assert_close(deployed(image)[0], (net(image).logits + method.second(image).logits) / 2)
    assert isinstance(deployed, Average)
    Adsh.model(tiny_architecture(2, 3)).load_state_dict(deployed.state_dict())


@pytest.mark.parametrize("wrong", [{"majority_threshold": 1.1}, {"interval": 0}, {"weight": -1.0}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Adsh(**wrong)
