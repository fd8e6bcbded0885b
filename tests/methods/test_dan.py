"""DAN: both losses against their closed forms, who is stepped when, and what each loss reads."""

import pytest
import torch
from torch import nn
from workbench import task

from nnunet_ssl.method import Labeled, Now, Unlabeled
from nnunet_ssl.methods.dan import DAN

LATE = Now(step=9, epoch=9, fraction=0.9)


class Fixed(nn.Module):
    """Says the same whatever it is shown: the first rows of its logits."""

    def __init__(self, *logits):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits), requires_grad=False)

    def forward(self, probs, image):
        return self.logits[: len(image)]


@pytest.fixture
def ready(tiny_net):
    def make(**arguments):
        net, method = tiny_net(2, 3), DAN(weight=1.0, rampup=0.0, **arguments)
        method.task = task(2, 3)
        method.supervised = lambda output, target: output.logits.square().mean()
        method.setup(net, None)
        return net, method

    return make


def batches(labeled=2, unlabeled=2):
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(labeled + unlabeled, 1, 16, 16, generator=generator)
    return Labeled(image[:labeled], []), Unlabeled(image[labeled:])


@pytest.mark.parametrize(("logits", "expected"), [((1.0, -1.0), 2.126928), ((1.0, 1.0), 0.693147)])
def test_adversarial_loss_asks_for_the_verdict_labeled(ready, logits, expected):
    net, method = ready()
    method.evaluator = Fixed(logits)
    terms = method.losses(net, *batches(1, 1), LATE)
    assert terms["adversarial"].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("labeled", "unlabeled", "logits", "expected"),
    [
        (0, 1, [(1.0, -1.0)], 0.126928),
        (1, 1, [(1.0, -1.0), (3.0, 1.0)], 1.126928),
        (1, 0, [(1.0, -1.0)], 2.126928),
        (2, 1, [(0.0, 0.0)] * 3, 0.693147),
    ],
)
def test_loss_of_the_evaluation_network_is_a_mean_over_all_patches(ready, labeled, unlabeled, logits, expected):
    net, method = ready()
    method.evaluator = Fixed(*logits).requires_grad_()
    method.seen = tuple((torch.zeros(n, 1, 16, 16), torch.zeros(n, 3, 16, 16)) for n in (labeled, unlabeled))
    method.after_step(net, LATE)
    assert method.report["evaluator"].item() == pytest.approx(expected, abs=1e-6)


def test_each_step_moves_one_network_only(ready):
    net, method = ready()
    sgd = torch.optim.SGD(net.module.parameters(), 0.1)
    student = [parameter.clone() for parameter in net.module.parameters()]
    evaluator = [parameter.clone() for parameter in method.evaluator.parameters()]

    sum(method.losses(net, *batches(), LATE).values()).backward()
    sgd.step()
    assert all(parameter.grad is None for parameter in method.evaluator.parameters())
    assert all(torch.equal(a, b) for a, b in zip(evaluator, method.evaluator.parameters(), strict=True))
    moved = [parameter.clone() for parameter in net.module.parameters()]
    assert any(not torch.equal(a, b) for a, b in zip(student, moved, strict=True))

    gradients = [parameter.grad.clone() for parameter in net.module.parameters() if parameter.grad is not None]
    method.after_step(net, LATE)
    assert not any(torch.equal(a, b) for a, b in zip(evaluator, method.evaluator.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(moved, net.module.parameters(), strict=True))
    after = [parameter.grad for parameter in net.module.parameters() if parameter.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(gradients, after, strict=True))
    assert not any(parameter.requires_grad for parameter in method.evaluator.parameters())
    assert not hasattr(method, "seen")


def test_gradients_of_the_evaluation_network_are_those_of_its_own_loss(ready):
    net, method = ready(dropout=0.0)
    for _ in range(2):  # the second time after a step
        labeled, unlabeled = batches()
        terms = method.losses(net, labeled, unlabeled, LATE)
        sum(terms.values()).backward()
        (x_l, p_l), (x_u, p_u) = method.seen
        method.evaluator.requires_grad_(True)
        log_probs = method.evaluator(torch.cat((p_l, p_u)), torch.cat((x_l, x_u))).log_softmax(1)
        loss = -(log_probs[:2, 1].sum() + log_probs[2:, 0].sum()) / 4
        expected = torch.autograd.grad(loss, list(method.evaluator.parameters()))
        method.after_step(net, LATE)
        for parameter, gradient in zip(method.evaluator.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient)


def test_labeled_patches_do_not_count_in_the_adversarial_loss(ready):
    net, method = ready()
    labeled, unlabeled = batches(3, 2)
    adversarial = method.losses(net, labeled, unlabeled, LATE)["adversarial"]
    for image in (labeled.image.flip(0), torch.randn_like(labeled.image), labeled.image[:1]):
        other = method.losses(net, Labeled(image, []), unlabeled, LATE)["adversarial"]
        torch.testing.assert_close(other, adversarial)
    method.after_step(net, LATE)


def test_its_verdict_has_no_dropout_in_the_students_step_and_has_in_its_own(ready):
    net, method = ready()
    method.train()
    first, second = (method.losses(net, *batches(), LATE)["adversarial"] for _ in range(2))
    assert torch.equal(first, second)
    seen, start, own = method.seen, {name: t.clone() for name, t in method.evaluator.state_dict().items()}, []
    for _ in range(2):
        method.evaluator.load_state_dict(start)
        method.seen = seen
        method.after_step(net, LATE)
        own.append(method.report["evaluator"])
    assert not torch.equal(*own)


def test_learns_to_tell_labeled_from_unlabeled(ready):
    net, method = ready(discriminator_lr=1e-3)
    labeled, unlabeled = batches()
    losses = []
    for _ in range(15):
        method.losses(net, Labeled(labeled.image + 1, []), unlabeled, LATE)
        method.after_step(net, LATE)
        losses.append(method.report["evaluator"].item())
    assert losses[-1] < 0.2 < 0.6 < losses[0]


def test_optimizer_is_the_published_one_and_left_to_the_method(ready):
    _, method = ready()
    group = method.optimizer.optimizer.param_groups[0]
    assert isinstance(method.optimizer.optimizer, torch.optim.Adam)
    assert (group["lr"], group["betas"], group["weight_decay"]) == (1e-4, (0.9, 0.99), 0)
    assert not method.optimizer.joint


@pytest.mark.parametrize("wrong", [{"dropout": 1.5}, {"discriminator_lr": -1.0}, {"weight": -1.0}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DAN(**wrong)
