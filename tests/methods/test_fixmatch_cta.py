"""FixMatch with CTAugment: where the strong view comes from and what a probe does."""

import pytest
import torch
from workbench import target, task

from nnunet_ssl.augmentation.intensity import OPERATIONS
from nnunet_ssl.method import Labeled, Now, Unlabeled
from nnunet_ssl.methods.fixmatch import FixMatch
from nnunet_ssl.methods.fixmatch_cta import FixMatchCTA

NOW = Now(step=5, epoch=0, fraction=0.5)


def ready(net, dimensions=2, channels=2, regions=False, ignore_label=None, **arguments) -> FixMatchCTA:
    method = FixMatchCTA(**arguments)
    method.task = task(dimensions, channels, regions, ignore_label=ignore_label)
    method.supervised = lambda output, target: output.logits.square().mean()
    method.setup(net, None)
    return method


def batches(dimensions=2, channels=2, labeled=3, unlabeled=2):
    torch.manual_seed(3)
    labels = torch.randint(channels, (labeled, 1, *[16] * dimensions)).float()
    return (
        Labeled(torch.randn(labeled, 1, *[16] * dimensions), target([labels, labels[..., ::2]], channels)),
        Unlabeled(torch.randn(unlabeled, 1, *[16] * dimensions)),
    )


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_step_probes_the_labeled_patches_and_makes_its_own_strong_view(dimensions, tiny_net):
    net = tiny_net(dimensions, 3)
    method = ready(net, dimensions, 3, threshold=0.0)
    labeled, unlabeled = batches(dimensions, 3)
    before = unlabeled.weak.clone()
    terms = method.losses(net, labeled, unlabeled, NOW)
    moved = (method.controller.rates != 1).sum()
    assert 1 <= moved <= 3 * method.depth
    assert (method.controller.rates <= 1).all()
    assert 0 < method.report["proximity"] < 1 and method.report["admitted"] == 1
    assert terms.keys() == {"supervised", "pseudo"} and terms["pseudo"] > 0
    assert torch.equal(unlabeled.weak, before)
    assert not torch.equal(method.strong_view(unlabeled), unlabeled.weak)


def test_depth_zero_is_fixmatch_with_equal_views(tiny_net):
    net = tiny_net()
    method = ready(net, depth=0, threshold=0.3)
    labeled, unlabeled = batches()
    terms = method.losses(net, labeled, unlabeled, NOW)
    plain = FixMatch(threshold=0.3, **FixMatch.presets["published"])
    plain.task, plain.supervised = method.task, method.supervised
    same = plain.losses(net, labeled, Unlabeled(unlabeled.weak, unlabeled.weak), NOW)
    assert all(torch.equal(terms[name], same[name]) for name in same)
    assert (method.controller.rates == 1).all()


def test_the_probe_leaves_the_ignore_label_out(tiny_net):
    net = tiny_net(2, 2)
    method = ready(net, ignore_label=2)
    labeled, _ = batches()
    all_ignored = Labeled(labeled.image, method.task.target(torch.full_like(labeled.target.full, 2.0)))
    method.probe(net, all_ignored)
    assert (method.controller.rates == 1).all() and method.report["proximity"] == 0
    method.probe(net, labeled)
    assert (method.controller.rates != 1).any()


def test_the_probe_takes_regions_and_one_scale(tiny_net):
    net = tiny_net(2, 2, True)
    method = ready(net, regions=True, ignore_label=3)
    image = torch.randn(2, 1, 16, 16)
    labels = (torch.rand(2, 3, 16, 16) > 0.5).float()  # two regions and the ignore label
    method.probe(net, Labeled(image, method.task.target(labels)))
    assert (method.controller.rates != 1).any() and 0 < method.report["proximity"] < 1


def test_a_perfect_network_keeps_all_rates(tiny_net):
    """Labels are its own confident predictions under any augmentation: proximity 1, nothing changes."""
    net = tiny_net()
    with torch.no_grad():
        net.module.decoder.seg_layers[-1].weight.zero_()
        net.module.decoder.seg_layers[-1].bias.copy_(torch.tensor([30.0, 0.0]))
    method = ready(net)
    labeled, _ = batches()
    method.probe(net, Labeled(labeled.image, method.task.target(torch.zeros_like(labeled.target.full))))
    torch.testing.assert_close(method.controller.rates, torch.ones(len(OPERATIONS), 17))
    assert method.report["proximity"] == pytest.approx(1)


def test_no_gradient_comes_from_the_probe_or_the_labels(tiny_net):
    net = tiny_net()
    method = ready(net, threshold=1.0)  # nothing is admitted
    terms = method.losses(net, *batches(), NOW)
    terms["pseudo"].backward()
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in net.module.parameters())


def test_adds_three_hyperparameters_and_needs_one_view():
    added = set(FixMatchCTA.hyperparameters()) - set(FixMatch.hyperparameters())
    assert added == {"depth", "cut", "cutout"} and FixMatchCTA.views == ("weak",)
    assert FixMatchCTA().controller.cut == 0.8
    assert (FixMatchCTA().weight, FixMatchCTA().rampup) == (1.0, 0.0)
    assert FixMatchCTA(**FixMatchCTA.presets["ssl4mis"]).controller.cut == 0.85


@pytest.mark.parametrize("wrong", [{"depth": -1}, {"cut": 1.1}, {"cutout": 1.1}, {"threshold": -0.1}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FixMatchCTA(**wrong)
