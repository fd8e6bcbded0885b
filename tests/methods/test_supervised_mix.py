"""SupervisedMix: its losses by hand, what its settings leave of it, and that it never asks for an unlabeled scan."""

import pytest
import torch
from tiny_steps import EARLY, batches, gradients, nnunet_loss, ready
from workbench import task

from nnunet_ssl.method import Unlabeled
from nnunet_ssl.methods.supervised_mix import SupervisedMix


def stepped(clean_weight, probability, seed=3):
    """Terms and the student's gradient of a step without unlabeled patches."""
    net, method = ready(SupervisedMix, 2, 3, False, clean_weight=clean_weight, probability=probability)
    labeled, _ = batches(2, 3, False)
    torch.manual_seed(seed)
    terms = method.losses(net, labeled, Unlabeled(), EARLY)
    sum(terms.values()).backward()
    return net, method, labeled, terms, gradients(net)


def nnunets(net, labeled):
    """nnU-Net's loss of labeled patches, and its gradient."""
    net.module.zero_grad()
    loss = nnunet_loss(False)(net.module(labeled.image), labeled.target.scales)
    loss.backward()
    return loss, gradients(net)


def test_clean_and_mixed_patches_both_count():
    net, method, labeled, terms, _ = stepped(2.0, 1.0)
    clean, _ = nnunets(net, labeled)
    torch.manual_seed(3)
    mixed = method.mix(labeled)
    assert not torch.equal(mixed.image, labeled.image)
    torch.testing.assert_close(terms["supervised"], 2 * clean)
    torch.testing.assert_close(terms["mixed"], nnunets(net, mixed)[0])
    assert list(terms) == ["supervised", "mixed"]


def test_mixed_patches_alone_make_one_pass():
    passes = []
    net, method = ready(SupervisedMix, 2, 3, False, clean_weight=0.0, probability=1.0)
    net.module.register_forward_hook(lambda module, arguments, result: passes.append(len(arguments[0])))
    labeled, _ = batches(2, 3, False)
    torch.manual_seed(3)
    terms = method.losses(net, labeled, Unlabeled(), EARLY)
    assert passes == [2] and list(terms) == ["supervised"]
    torch.manual_seed(3)
    torch.testing.assert_close(terms["supervised"], nnunets(net, method.mix(labeled))[0])


def test_without_boxes_and_clean_patches_it_is_nnunets_step():
    net, _, labeled, terms, moved = stepped(0.0, 0.0)
    loss, expected = nnunets(net, labeled)
    torch.testing.assert_close(terms, {"supervised": loss})
    torch.testing.assert_close(moved, expected)


@pytest.mark.parametrize("clean_weight", [0.5, 1.0, 3.0])
def test_two_passes_of_the_same_patches_are_one_of_more_weight(clean_weight):
    net, _, labeled, _, moved = stepped(clean_weight, 0.0)
    _, once = nnunets(net, labeled)
    torch.testing.assert_close(moved, {name: (1 + clean_weight) * value for name, value in once.items()})


def test_a_loss_of_twice_the_weight_is_twice_the_learning_rate_with_half_the_weight_decay():
    """As the page says: steps of nnU-Net's optimizer while its learning rate comes down."""
    ways = []
    for weight, factor in ((2, 1), (1, 2)):
        x = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
        optimizer = torch.optim.SGD([x], 0.01 * factor, momentum=0.99, nesterov=True, weight_decay=3e-2 / factor)
        for step in range(20):
            optimizer.param_groups[0]["lr"] = 0.01 * factor * (1 - step / 20) ** 0.9
            optimizer.zero_grad()
            (weight * (x - 0.3).pow(4).sum()).backward()
            optimizer.step()
        ways.append(x.detach())
    torch.testing.assert_close(*ways)


@pytest.mark.parametrize(("restart", "phases"), [(0.5, (0.5,)), (0.25, (0.25,)), (0.0, ())])
def test_the_learning_rate_starts_anew_where_it_is_told_to(restart, phases):
    assert SupervisedMix(restart=restart).phases == phases and not SupervisedMix().labeled_first


def test_a_batch_of_one_is_refused_unless_nothing_is_mixed():
    method = SupervisedMix()
    method.task = task(labeled_batch_size=1)
    with pytest.raises(NotImplementedError, match="there is one on a GPU: raise batch_size in the plans"):
        method.setup(None, None)
    method = SupervisedMix(probability=0.0)
    method.task = task(labeled_batch_size=1)
    method.setup(None, None)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("clean_weight", -1, "clean_weight = -1"),
        ("probability", 1.1, "probability = 1.1"),
        ("smallest", -0.1, "smallest = -0.1"),
        ("smallest", 0.8, r"largest = 0.75 .* \[0.8, 1\]"),
        ("largest", 1.1, "largest = 1.1"),
        ("restart", 1, "restart = 1"),
    ],
)
def test_values_out_of_range(name, value, told):
    with pytest.raises(ValueError, match=told):
        SupervisedMix(**{name: value})
