"""MCF against its closed forms."""

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import nn
from workbench import kind, task, tiny_architecture, tiny_network
from workbench import output as output_of

from nnunet_ssl.method import Labeled, Now, Unlabeled
from nnunet_ssl.methods.mcf import MCF
from nnunet_ssl.networks.net import Net

END = Now(step=9, epoch=9, fraction=1.0)
# foreground probabilities of four labeled and two unlabeled voxels
LABELED_A, LABELED_B, Y = [0.7, 0.4, 0.9, 0.2], [0.6, 0.55, 0.3, 0.1], [1, 1, 0, 0]
FREE_A, FREE_B = [0.3, 0.6], [0.45, 0.8]


class Says(nn.Module):
    """A network with given foreground probabilities of the labeled and the unlabeled patch."""

    def __init__(self, labeled, unlabeled):
        super().__init__()
        p = torch.tensor([labeled, unlabeled + [0.5] * (len(labeled) - len(unlabeled))])
        self.logits = nn.Parameter(torch.stack([(1 - p).log(), p.log()], 1)[:, :, None])

    def forward(self, image):
        return self.logits


def step(a, b, free_a=FREE_A, free_b=FREE_B, y=Y, ignore=None):
    """The terms of a step on one labeled and one unlabeled patch, and both networks."""
    first, second = Says(a, free_a), Says(b, free_b)
    method = MCF(weight=1.0, rampup=0.0)
    method.task = task(2, 2, ignore_label=ignore)
    method.supervised = lambda output, target: output.logits.sum() * 0
    method.second = Net(second, kind(2))
    patch = torch.zeros(1, 1, 1, len(a))
    labeled = Labeled(patch, method.task.target(torch.tensor(y).view(1, 1, 1, -1).float()))
    return method.losses(Net(first, kind(2)), labeled, Unlabeled(patch), END), first, second, method


def test_review_of_the_voxels_where_the_networks_differ():
    terms, *_ = step(LABELED_A, LABELED_B)
    assert terms["review"].item() == pytest.approx(0.5 * (0.585 + 0.14625), abs=1e-6)


def test_dice_decides_which_is_better():
    method = step(LABELED_A, LABELED_B)[3]
    known = torch.ones(1, 1, 1, 4, dtype=torch.bool)
    y = torch.tensor(Y).view(1, 1, 1, 4).float()
    losses = [method.dice_loss(torch.tensor(p).view(1, 1, 1, 4), y, known).item() for p in (LABELED_A, LABELED_B)]
    assert losses == pytest.approx([0.371427, 0.167420], abs=1e-6)
    assert method.report["first_is_better"] == 0


def test_only_the_worse_network_learns_from_the_better_ones_pseudo_labels():
    terms, first, second, _ = step(LABELED_A, LABELED_B)
    # two of the four voxels of the patch are equal ties, whose sharpened label is the prediction itself
    assert 2 * terms["consistency"].item() == pytest.approx(0.096471, abs=1e-6)
    terms["consistency"].backward()
    assert first.logits.grad[1].abs().sum() > 0
    assert second.logits.grad is None or not second.logits.grad.any()


def test_equal_networks_have_nothing_to_review_and_a_tie_goes_to_the_second():
    terms, first, second, method = step(LABELED_A, LABELED_A)
    assert terms["review"] == 0 and method.report["first_is_better"] == 0
    sum(terms.values()).backward()
    assert torch.isfinite(first.logits.grad).all()
    assert first.logits.grad[1].abs().sum() > 0 and not second.logits.grad[1].any()


def test_ignored_voxels_count_in_no_term_of_labels():
    terms, *_, method = step([*LABELED_A, 0.9], [*LABELED_B, 0.1], y=[*Y, 2], ignore=2)
    assert terms["review"].item() == pytest.approx(0.5 * (0.585 + 0.14625), abs=1e-6)
    assert method.report["first_is_better"] == 0


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_twin_has_another_form_and_both_predict(dimensions):
    net, method, architecture = Net(tiny_network(dimensions, 2), kind(2)), MCF(), tiny_architecture(dimensions, 2)
    method.task = task(dimensions, 2)
    method.setup(net, architecture)
    assert isinstance(net.module, PlainConvUNet) and isinstance(method.twin, ResidualEncoderUNet)
    image = torch.randn(1, 1, *[16] * dimensions)
    mean = (net(image).logits + method.second(image).logits) / 2
    torch.testing.assert_close(method.deployed(net)(image)[0], mean)
    MCF.model(architecture).load_state_dict(method.deployed(net).state_dict())


@pytest.mark.parametrize("wrong", [{"review": -1.0}, {"temperature": 0.0}, {"weight": -1.0}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MCF(**wrong)


def test_regions_are_compared_one_by_one():
    method = MCF()
    method.task = task(2, 2, regions=True)
    first = output_of(torch.tensor([[1.0, -1.0]]).view(1, 2, 1, 1), True)
    second = output_of(torch.tensor([[1.0, 1.0]]).view(1, 2, 1, 1), True)
    assert method.differ(first, second).flatten().tolist() == [False, True]
