"""Cross teaching against the closed forms of its Dice, its two directions, and its transformer's training."""

import pytest
import torch
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from workbench import SMALL_TRANSFORMER, task
from workbench import output as output_of

from nnunet_ssl.losses.dice import squared_dice
from nnunet_ssl.method import Labeled, Now, Unlabeled
from nnunet_ssl.methods.cross_teaching import CrossTeaching


def probabilities(*foreground):
    """(1, 2, voxels) from the probability of class 1."""
    p = torch.tensor(foreground)
    return torch.stack((1 - p, p))[None]


def one_hot(*labels):
    return torch.eye(2)[torch.tensor(labels)].T[None]


def output(*foreground, regions=False):
    """Logits of which the probability of class 1 (or of the one region) is as given."""
    p = torch.tensor(foreground)
    logits = p.logit()[None, None] if regions else probabilities(*foreground).log()
    return output_of(logits.requires_grad_(), regions)


def test_squared_dice_by_hand():
    assert squared_dice(probabilities(0.2, 0.7, 0.4), one_hot(0, 1, 1)).item() == pytest.approx(0.208302, abs=1e-6)


def test_perfect_prediction_costs_nothing():
    target = one_hot(0, 1, 1)
    assert squared_dice(target, target).item() < 1e-6


def test_is_not_nnunets_dice():
    dice = MemoryEfficientSoftDiceLoss(batch_dice=True, do_bg=False, smooth=1e-5, ddp=False)
    loss = dice(probabilities(0.2, 0.7, 0.4), torch.tensor([[[0, 1, 1]]]))
    assert loss.item() == pytest.approx(-0.666668, abs=1e-6)


def test_a_class_without_pseudo_labels_costs_almost_one():
    assert squared_dice(probabilities(0.1, 0.1), one_hot(0, 0)).item() == pytest.approx(0.502513, abs=1e-6)
    logits = torch.zeros(1, 2, 4, requires_grad=True)
    loss = squared_dice(logits.softmax(1), one_hot(0, 0, 0, 0))
    assert loss.item() == pytest.approx(0.599995, abs=1e-6)
    loss.backward()
    expected = torch.tensor([-0.030001, 0.030001])[None, :, None].expand(1, 2, 4)
    torch.testing.assert_close(logits.grad, expected, atol=1e-6, rtol=0)  # toward background


def test_sums_run_over_the_batch():
    p, y = probabilities(0.2, 0.7, 0.4), one_hot(0, 1, 1)
    batch = squared_dice(p.transpose(0, 2).contiguous(), y.transpose(0, 2).contiguous())
    torch.testing.assert_close(batch, squared_dice(p, y))


def test_cross_is_both_directions_with_the_others_labels():
    first, second = output(0.2, 0.7, 0.4), output(0.3, 0.9, 0.8)
    method = CrossTeaching()
    forth = squared_dice(first.probs, one_hot(0, 1, 1)).item()
    back = squared_dice(second.probs, one_hot(0, 1, 0)).item()
    assert forth == pytest.approx(0.208302, abs=1e-6)
    assert method.cross(first, second).item() == pytest.approx(forth + back, abs=1e-6)
    assert method.report["agreement"].item() == pytest.approx(2 / 3)
    assert method.cross(second, first).item() == method.cross(first, second).item()


def test_targets_carry_no_gradient():
    first, second = output(0.2, 0.7, 0.4), output(0.3, 0.9, 0.8)
    CrossTeaching().cross(first, second).backward()
    for mine, labels, found in ((0.2, 0.7, 0.4), (0, 1, 1), first), ((0.3, 0.9, 0.8), (0, 1, 0), second):
        alone = output(*mine)
        squared_dice(alone.probs, one_hot(*labels)).backward()
        torch.testing.assert_close(found.logits.grad, alone.logits.grad)


def test_there_is_no_cross_entropy_in_it():
    def cross(scale):
        logits = torch.tensor([[[9.0, -9.0, -9.0], [-9.0, 9.0, 9.0]]])
        return CrossTeaching().cross(output_of(scale * logits), output_of(logits.flip(1))).item()

    assert abs(cross(10.0) - cross(1.0)) < 1e-3
    assert cross(1.0) > 1.9  # the networks disagree everywhere


def test_regions_are_binary_and_overlap():
    first, second = output(0.7, 0.2, regions=True), output(0.4, 0.9, regions=True)
    forth = 1 - 2 * 0.2 / (0.7**2 + 0.2**2 + 1)
    back = 1 - 2 * 0.4 / (0.4**2 + 0.9**2 + 1)
    assert CrossTeaching().cross(first, second).item() == pytest.approx(forth + back, abs=1e-5)


@pytest.mark.parametrize(("dimensions", "channels"), [(2, 3), (3, 2)])
def test_one_step_of_both_networks(tiny_net, dimensions, channels):
    net, method = tiny_net(dimensions, channels), CrossTeaching(**SMALL_TRANSFORMER)
    method.task = task(dimensions, channels)
    scales = []

    def supervised(output, target):
        scales.append(len(output.pyramid))
        return output.logits.square().mean()

    method.supervised = supervised
    method.setup(net, None)
    names = list(net.module.state_dict())
    shape = (1, *[16] * dimensions)
    labeled, unlabeled = Labeled(torch.randn(3, *shape), []), Unlabeled(torch.randn(2, *shape))
    with torch.no_grad():
        for image in (labeled.image, unlabeled.weak):
            assert method.twin(image).shape == net(image).logits.shape
    terms = method.losses(net, labeled, unlabeled, Now(step=10, epoch=1, fraction=0.025))
    assert terms.keys() == {"supervised", "supervised_twin", "cross"}
    assert scales == [2, 1]
    terms["supervised_twin"].backward(retain_graph=True)
    assert all(parameter.grad is None for parameter in net.module.parameters())
    terms["cross"].backward()
    for network in (net.module, method.twin):
        assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)
        assert sum(p.grad.abs().sum() for p in network.parameters() if p.grad is not None) > 0
    assert method.deployed(net) is net.module
    assert list(net.module.state_dict()) == names


def test_the_transformer_is_trained_as_nnunet_trains_primus(tiny_net):
    net, method = tiny_net(), CrossTeaching(**SMALL_TRANSFORMER)
    method.task = task()
    method.setup(net, None)
    own = method.optimizer
    assert isinstance(own.optimizer, torch.optim.AdamW)
    group = own.optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["weight_decay"], group["max_norm"]) == (3e-4, (0.9, 0.98), 5e-2, 1.0)
    assert own.joint
    assert set(own.trained) == set(method.twin.parameters()) == set(method.parameters())
    own.follow(0.025)
    assert group["lr"] == pytest.approx(1.5e-4)


def test_a_patch_of_odd_axes_is_refused(tiny_net):
    method = CrossTeaching(**SMALL_TRANSFORMER)
    method.task = task(2, patch_size=(15, 17))
    with pytest.raises(NotImplementedError, match=r"even number of voxels .* \[15, 17\]"):
        method.setup(tiny_net(), None)


@pytest.mark.parametrize(
    "wrong", [{"width": 400}, {"width": 0}, {"layers": 0}, {"heads": 0}, {"drop_path": 1.0}, {"learning_rate": -1.0}]
)
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CrossTeaching(**wrong)
