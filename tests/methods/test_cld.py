"""CLD against its closed forms."""

import pytest
import torch
from torch.nn import functional as F
from workbench import output, task, tiny_architecture

from nnunet_ssl.method import Labeled, Now, Unlabeled
from nnunet_ssl.methods.cld import CLD, balancing
from nnunet_ssl.networks.average import Average

W = torch.tensor([1.0, 2.0, 5.0, 10.0])
COUNTS = torch.tensor([1000.0, 125.0, 8.0, 1.0], dtype=torch.float64)
LOGITS = torch.tensor([[2.0, 0.0, 0.0, -1.0], [0.0, 1.0, 0.0, 0.0]]).T.view(1, 4, 2, 1)
TARGETS = torch.tensor([0, 1]).view(1, 2, 1)


def now(step):
    return Now(step=step, epoch=0, fraction=1.0)


def ready(tiny_net, dimensions=2, channels=4, regions=False, **arguments):
    net, method = tiny_net(dimensions, channels, regions=regions), CLD(**arguments)
    method.task = task(dimensions, channels, regions)
    method.setup(net, tiny_architecture(dimensions, channels, seed=7))
    return net, method


def batch(dimensions=2, channels=4):
    torch.manual_seed(3)
    shape = (2, 1, *[16] * dimensions)
    labels = torch.randint(0, channels, shape).float()
    small = labels[(slice(None), slice(None), *[slice(None, None, 2)] * dimensions)]
    return Labeled(torch.randn(shape), task(dimensions, channels).target([labels, small])), Unlabeled(
        torch.randn(shape)
    )


def test_class_weights_of_voxel_counts():
    torch.testing.assert_close(balancing(COUNTS).float(), W)


def test_a_class_that_no_case_has_weighs_at_most_a_hundred():
    assert balancing(torch.tensor([1e3, 0.0])).tolist() == pytest.approx([1, 10])
    assert balancing(torch.tensor([1e9, 0.0])).tolist() == [1, 100]
    assert balancing(torch.zeros(3)).isfinite().all()


@pytest.mark.parametrize(
    ("sampled", "expected"), [((True, False), 0.138989), ((True, True), 0.882658), ((False, False), 0.0)]
)
def test_weighted_cross_entropy_of_sampled_voxels(tiny_net, sampled, expected):
    _, method = ready(tiny_net)
    method.w.copy_(W)
    logits = LOGITS.clone().requires_grad_()
    loss = method.taught(output(logits), TARGETS, torch.tensor(sampled).view(1, 2, 1))
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    loss.backward()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad.abs().sum(1).flatten() > 0).tolist() == list(sampled)


def test_share_of_voxels_that_are_left(tiny_net):
    _, method = ready(tiny_net)
    method.confidences[0].confidence.copy_(torch.tensor([0.95, 0.8, 0.5, 0.1]))
    said = torch.arange(4).repeat(16_000).view(1, -1, 160)
    torch.manual_seed(0)
    left = method.sampled(output(F.one_hot(said, 4).movedim(-1, 1).float()), method.confidences[0])
    shares = torch.stack([left[said == k].float().mean() for k in range(4)])
    torch.testing.assert_close(shares, torch.tensor([0.235702, 0.471405, 0.745356, 1.0]), atol=0.01, rtol=0)


def test_where_all_is_learned_nothing_is_left(tiny_net):
    net, method = ready(tiny_net)
    for confidence in method.confidences:
        confidence.confidence.fill_(1.0)
    term = method.losses(net, *batch(), now(1))["cross"]
    term.backward()
    assert term == 0 and all(p.grad.isfinite().all() for p in net.module.parameters() if p.grad is not None)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("arguments", [{}, {"gamma": 0.0}], ids=["all alike", "gamma 0"])
def test_with_equal_confidence_it_is_cps_with_class_weights_on_all_patches(tiny_net, dimensions, arguments):
    net, method = ready(tiny_net, dimensions, weight=1.0, rampup=0.0, **arguments)
    method.task = task(dimensions, 4, voxel_counts=lambda: COUNTS)
    labeled, unlabeled = batch(dimensions)
    terms = method.losses(net, labeled, unlabeled, now(0))
    torch.testing.assert_close(method.w, W)
    images = torch.cat((labeled.image, unlabeled.weak))
    a, b = net(images).logits, method.second(images).logits
    expected = sum(
        (W[y] * F.cross_entropy(z, y, reduction="none")).mean() for z, y in ((a, b.argmax(1)), (b, a.argmax(1)))
    )
    torch.testing.assert_close(terms["cross"], expected)


def test_each_network_leaves_out_what_it_says_itself(tiny_net):
    net, method = ready(tiny_net, weight=1.0, rampup=0.0)
    labeled, unlabeled = batch()
    images = torch.cat((labeled.image, unlabeled.weak))
    a, b = net(images).logits, method.second(images).logits
    y_a, y_b = a.argmax(1), b.argmax(1)
    k_a, k_b = (int(y.flatten().mode()[0]) for y in (y_a, y_b))  # of which alone each is unsure
    for confidence, k in zip(method.confidences, (k_a, k_b), strict=True):
        confidence.confidence.copy_(1 - F.one_hot(torch.tensor(k), 4))
    term = method.losses(net, labeled, unlabeled, now(1))["cross"]
    losses = [F.cross_entropy(z, y, reduction="none") for z, y in ((a, y_b), (b, y_a))]
    expected = ((y_a == k_a) * losses[0]).mean() + ((y_b == k_b) * losses[1]).mean()
    torch.testing.assert_close(term, expected)
    assert 0 < method.report["sampled_A"] == (y_a == k_a).float().mean() < 1


def test_confidence_is_updated_at_the_end_of_each_interval(tiny_net):
    net, method = ready(tiny_net, interval=2)
    first, second = method.confidences
    labeled, unlabeled = batch()
    method.losses(net, labeled, unlabeled, now(0))
    assert not first.seen.any() and first.counts.sum() == 2 * 16 * 16
    method.losses(net, labeled, unlabeled, now(1))
    assert first.seen.all() and not first.counts.any()
    p, y = net(labeled.image).probs, labeled.target.labels
    expected = torch.stack([p[:, k][y == k].mean() for k in range(4)])
    torch.testing.assert_close(first.confidence, expected)
    assert not torch.equal(first.confidence, second.confidence)


def test_weights_are_counted_once(tiny_net):
    net, method = ready(tiny_net)
    method.task = task(2, 4, voxel_counts=lambda: COUNTS)
    method.losses(net, *batch(), now(0))
    method.task = task(2, 4, voxel_counts=lambda: 1 / 0)
    method.losses(net, *batch(), now(1))
    torch.testing.assert_close(method.state_dict()["w"], W)


def test_regions_have_the_rates_of_inside_and_outside(tiny_net):
    net, method = ready(tiny_net, channels=2, regions=True)
    method.confidences[0].confidence.copy_(torch.tensor([0.0, 1.0, 1.0, 0.0]))  # inside of two regions, then outside
    said = torch.tensor([[1.0, -1.0], [1.0, -1.0]]).view(1, 2, 2, 1)
    assert method.sampled(output(said, True), method.confidences[0]).flatten().tolist() == [True, False, False, True]
    method.w.copy_(torch.tensor([1.0, 3.0]))
    loss = method.taught(output(said, True), (said > 0).float(), torch.ones_like(said, dtype=torch.bool))
    assert loss.item() == pytest.approx(2 * 0.313262, abs=1e-6)


def test_the_largest_count_may_be_that_of_no_region(tiny_net):
    net, method = ready(tiny_net, channels=2, regions=True)
    method.task = task(2, 2, True, voxel_counts=lambda: torch.tensor([125.0, 1.0, 1000.0]))
    labels = torch.ones(2, 2, 16, 16)
    labeled = Labeled(torch.randn(2, 1, 16, 16), method.task.target([labels, labels[..., ::2, ::2]]))
    method.losses(net, labeled, batch()[1], now(0))
    torch.testing.assert_close(method.w, torch.tensor([2.0, 10.0]))


def test_ignored_voxels_count_in_no_term_of_labels(tiny_net):
    net, method = ready(tiny_net, gamma=0.0, interval=1)
    method.task = task(2, 4, ignore_label=4)
    labeled, unlabeled = batch()
    ignored = method.task.target([torch.full_like(scale, 4.0) for scale in labeled.target.scales])
    terms = method.losses(net, Labeled(labeled.image, ignored), unlabeled, now(0))
    assert not method.confidences[0].seen.any()
    assert all(term.isfinite() for term in terms.values()) and terms["cross"] > 0


def test_both_networks_predict(tiny_net):
    net, method = ready(tiny_net)
    image = torch.randn(1, 1, 16, 16)
    deployed = method.deployed(net)
    torch.testing.assert_close(deployed(image)[0], (net(image).logits + method.second(image).logits) / 2)
    assert isinstance(deployed, Average)
    CLD.model(tiny_architecture(2, 4)).load_state_dict(deployed.state_dict())


def test_presets():
    assert CLD.presets == {"dhc": {"weight": 1.0}, "published": {"interval": 2}}
    assert (CLD().weight, CLD().interval, CLD().momentum, CLD().gamma) == (0.1, 8, 0.999, 0.5)


@pytest.mark.parametrize("wrong", [{"gamma": -1.0}, {"interval": 0}, {"momentum": 2.0}, {"weight": -1.0}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CLD(**wrong)
