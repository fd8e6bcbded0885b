"""SS-Net against its closed forms."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from workbench import kind, task, tiny_architecture, tiny_network

from nnunet_ssl.losses.dice import soft_dice_distance
from nnunet_ssl.memory.class_separation import ClassSeparation
from nnunet_ssl.method import Labeled, Now, Unlabeled
from nnunet_ssl.methods.ss_net import SSNet
from nnunet_ssl.networks.adversarial import unit_length, virtual_adversarial
from nnunet_ssl.networks.net import Net

END = Now(step=9, epoch=9, fraction=0.9)
VECTORS, BANK = [[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]], [[0.0, 5.0], [1.0, 0.0]]


class Given(nn.Module):
    """Scores that do not depend on the vectors."""

    def __init__(self, *scores):
        super().__init__()
        self.logits = torch.logit(torch.tensor(scores))[:, None]

    def forward(self, vectors):
        return self.logits[: len(vectors)]


def separation(scores=(0.5, 0.5, 0.5), classes=1):
    """One whose projections change nothing, with the bank of the closed form for its last class."""
    made = ClassSeparation(2, classes, bank_size=2)
    made.g = made.q = nn.Identity()
    made.s = nn.ModuleList(Given(*scores) for _ in range(classes))
    made.bank.vectors = torch.zeros(classes, 2, 2)
    made.bank.vectors[-1] = torch.tensor(BANK)
    made.bank.count[-1] = 2
    return made


def test_contrast_equals_the_mean_over_all_pairs(monkeypatch):
    h = torch.tensor(VECTORS).T.reshape(1, 2, 1, 3)
    assert separation()(h, torch.ones(1, 1, 1, 3, dtype=torch.bool)).item() == pytest.approx(0.433333, abs=1e-6)
    u, k = F.normalize(torch.tensor(VECTORS), dim=1), F.normalize(torch.tensor(BANK), dim=1)
    assert (1 - u @ k.T).mean().item() == pytest.approx(0.433333, abs=1e-6)
    # attention of a half, a quarter and a quarter, in the order of the voxels
    monkeypatch.setattr(
        "nnunet_ssl.memory.class_separation.draw", lambda masks, most: (torch.arange(3)[None], torch.ones(1, 3) > 0)
    )
    attended = separation((0.8, 0.4, 0.4))(h, torch.ones(1, 1, 1, 3, dtype=torch.bool))
    assert attended.item() == pytest.approx(0.45, abs=1e-6)


def test_all_classes_divide_and_those_without_bank_or_voxels_give_nothing():
    h = torch.tensor(VECTORS).T.reshape(1, 2, 1, 3)
    masks = torch.zeros(1, 3, 1, 3, dtype=torch.bool)
    masks[:, 0], masks[:, 2] = True, True  # class 0 has no bank, class 1 no voxels
    assert separation(classes=3)(h, masks).item() == pytest.approx(0.433333 / 3, abs=1e-6)
    one = masks.clone()
    one[..., 1:] = False
    assert separation(classes=3)(h, one) == 0


def test_directions_have_length_one_for_each_patch():
    d = unit_length(torch.arange(1.0, 17.0).view(2, 1, 2, 2, 2))
    torch.testing.assert_close(d.flatten(1).norm(dim=1), torch.ones(2))
    network = tiny_network(2, 3)
    image = torch.randn(2, 1, 16, 16)
    clean = network(image)[0].softmax(1).detach()
    found = virtual_adversarial(network, image, kind(2), lambda moved: soft_dice_distance(moved.probs, clean))
    torch.testing.assert_close(found.flatten(1).norm(dim=1), torch.ones(2))
    assert all(parameter.grad is None for parameter in network.parameters())


def test_the_adversarial_direction_is_that_of_the_gradient():
    """Of a linear model of one voxel's channels the prediction changes along one line only."""
    network = nn.Conv2d(2, 1, 1, bias=False)
    network.weight.data[:] = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)
    image = torch.zeros(1, 2, 1, 1)
    torch.manual_seed(0)
    found = virtual_adversarial(network, image, True, lambda moved: moved.logits.square().sum())
    torch.testing.assert_close(found.flatten().abs(), torch.tensor([0.6, 0.8]))


def test_distance_of_two_soft_predictions():
    p, q = (torch.tensor(values).view(1, 2, 1, 1) for values in ([0.8, 0.2], [0.6, 0.4]))
    assert 1 - soft_dice_distance(p, q, smooth=0).item() == pytest.approx((0.685714 + 0.266667) / 2, abs=1e-6)
    half = torch.tensor([0.5, 0.5]).view(1, 2, 1, 1)
    assert soft_dice_distance(half, half).item() == pytest.approx(0.5, abs=1e-5)


def ready(dimensions=2, **arguments):
    net, method = Net(tiny_network(dimensions, 3), kind(3)), SSNet(**arguments)
    method.supervised = lambda output, target: output.logits.square().mean()
    method.task = task(dimensions, 3, ignore_label=3)
    method.setup(net, tiny_architecture(dimensions, 3))
    return net, method


def test_the_bank_holds_labeled_voxels_that_are_right_and_no_background():
    _, method = ready()
    labels = torch.tensor([0, 1, 1, 2, 2, 3]).view(1, 1, 1, 6)
    predicted = torch.tensor([0, 1, 0, 2, 2, 1]).view(1, 1, 6)
    y, right = method.labeled_voxels(method.task.target(labels.float()), predicted)
    assert y.sum((0, 2, 3)).tolist() == [1, 2, 2]  # the ignored voxel is in none
    assert right[0, :, 0].nonzero().tolist() == [[1, 1], [2, 3], [2, 4]]


def test_a_step_fills_the_bank_and_trains_the_heads_and_the_student():
    net, method = ready()
    image = torch.randn(2, 1, 16, 16)
    labels = net(image).logits.argmax(1, keepdim=True).float()  # all of it is right
    terms = method.losses(net, Labeled(image, method.task.target(labels)), Unlabeled(torch.randn_like(image)), END)
    counts = method.separation.bank.count.tolist()
    assert counts[0] == 0 and max(counts[1:]) == 32
    terms["contrast"].backward(retain_graph=True)
    assert all(parameter.grad is not None for parameter in method.separation.parameters())
    assert next(net.module.encoder.parameters()).grad.abs().sum() > 0
    net.module.zero_grad()
    terms["smoothness"].backward()
    assert next(net.module.encoder.parameters()).grad.abs().sum() > 0


@pytest.mark.parametrize(("shape", "epsilon"), [((256, 256), 6.0), ((112, 112, 80), 10.0), ((56, 56, 20), 2.5)])
def test_epsilon_is_the_codes_for_its_patch_and_follows_its_size(shape, epsilon, monkeypatch):
    method, moved = SSNet(), []
    direction = torch.zeros(1, 1, *shape)
    direction.view(-1)[0] = 1
    monkeypatch.setattr("nnunet_ssl.methods.ss_net.virtual_adversarial", lambda *args: direction)

    class Passes(nn.Module):
        def forward(self, x):
            moved.append(x)
            return torch.cat((x, -x), 1)

    image = torch.zeros(1, 1, *shape)
    method.smoothness(Net(Passes(), kind(2)), image, torch.full((1, 2, *shape), 0.5))
    assert moved[0].norm().item() == pytest.approx(epsilon, rel=1e-5)


@pytest.mark.parametrize("wrong", [{"radius": -1.0}, {"contrast": -1.0}, {"max_voxels": 1}, {"weight": -1.0}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SSNet(**wrong)
