"""ICT against its closed forms."""

import pytest
import torch
from workbench import output as output_of
from workbench import task

from nnunet_ssl.method import Labeled, Now, Unlabeled
from nnunet_ssl.methods import ict
from nnunet_ssl.methods.ict import ICT, mixed

END = Now(100, 1, 1.0)


def view(*values) -> torch.Tensor:
    return torch.tensor(values).view(-1, *[1] * 3)


class Fixed:
    """In place of the Beta distribution: the given draws."""

    def __init__(self, *draws):
        self.draws = draws

    def __call__(self, a, b):
        return self

    def sample(self, shape):
        assert shape == (len(self.draws),)
        return torch.tensor(self.draws)


def consistency(net, method, image, monkeypatch, *draws):
    """The consistency term at full weight for given mixing coefficients, without the weight."""
    method.supervised = lambda output, target: output.logits.sum() * 0
    labeled = Labeled(torch.zeros(3, *image.shape[1:]), None)
    monkeypatch.setattr(torch.distributions, "Beta", Fixed(*draws))
    return method.losses(net, labeled, Unlabeled(weak=image), END)["consistency"] / method.weight


def identity(*batches):
    """A student whose logits are its image."""
    return tuple(output_of(batch) for batch in batches)


def ready(tiny_net, channels=2):
    net, method = tiny_net(2, channels), ICT()
    method.task = task(2, channels)
    method.setup(net, None)
    return net, method


def test_mixture_of_targets_and_its_distance():
    first, second = torch.tensor([0.8, 0.2]), torch.tensor([0.4, 0.6])
    targets = mixed(torch.stack((first, second)), 1, torch.tensor([[0.3], [0.0]]))
    torch.testing.assert_close(targets[0], torch.tensor([0.68, 0.32]))
    assert (targets[0] - 0.5).square().mean().item() == pytest.approx(0.0324, abs=1e-6)
    torch.testing.assert_close(targets[1], second)


def test_the_term_of_a_step(monkeypatch):
    """Both mixtures of a pair of patches, a student whose logits are the image, a teacher of given probabilities."""
    targets = torch.tensor([[0.8, 0.2], [0.4, 0.6]])[..., None, None]
    method = ICT()
    method.teacher = lambda image: output_of(targets.log())
    image = torch.zeros(2, 2, 1, 1)
    loss = consistency(identity, method, image, monkeypatch, 0.3, 0.3)
    mirrored = ((0.7 * 0.4 + 0.3 * 0.8) - 0.5) ** 2
    assert loss.item() == pytest.approx((0.0324 + mirrored) / 2, abs=1e-6)


@pytest.mark.parametrize("m", [0.0, 1.0])
def test_no_mixture_and_an_equal_teacher_cost_nothing(tiny_net, monkeypatch, m):
    net, method = ready(tiny_net)
    torch.manual_seed(0)
    loss = consistency(net, method, torch.randn(2, 1, 16, 16), monkeypatch, m, m)
    assert loss.item() < 1e-10


def test_equal_patches_cost_nothing_for_any_mixture(tiny_net, monkeypatch):
    net, method = ready(tiny_net)
    torch.manual_seed(0)
    patch = torch.randn(1, 1, 16, 16).expand(2, -1, -1, -1)
    torch.testing.assert_close(mixed(patch, 1, view(0.37, 0.9)), patch)
    assert consistency(net, method, patch, monkeypatch, 0.37, 0.9).item() < 1e-10
    other = torch.randn(2, 1, 16, 16)
    assert consistency(net, method, other, monkeypatch, 0.37, 0.9).item() > 1e-8


def test_probabilities_are_mixed_and_not_logits(monkeypatch):
    logits = torch.tensor([[2.0, 0.0], [0.0, 0.0]])[..., None, None]
    method = ICT()
    method.teacher = lambda image: output_of(logits)
    m = view(0.5, 0.5)
    assert mixed(logits.softmax(1), 1, m)[0, 0].item() == pytest.approx(0.690399, abs=1e-6)
    assert mixed(logits, 1, m).softmax(1)[0, 0].item() == pytest.approx(0.731059, abs=1e-6)
    loss = consistency(identity, method, torch.zeros(2, 2, 1, 1), monkeypatch, 0.5, 0.5)
    assert loss.item() == pytest.approx((0.690399 - 0.5) ** 2, abs=1e-6)


def test_exchanging_the_pair_and_the_shares_changes_nothing(tiny_net, monkeypatch):
    net, method = ready(tiny_net)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in net.module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    image = torch.randn(2, 1, 16, 16)
    one = consistency(net, method, image, monkeypatch, 0.2, 0.6)
    other = consistency(net, method, image.flip(0), monkeypatch, 0.8, 0.4)
    swapped = consistency(net, method, image.flip(0), monkeypatch, 0.6, 0.2)
    torch.testing.assert_close(one, other)
    torch.testing.assert_close(one, swapped)


def test_every_pair_draws_its_own_share_of_a_beta_distribution(monkeypatch):
    drawn = []
    monkeypatch.setattr(ict, "mixed", lambda batch, shift, m: drawn.append((shift, m)) or mixed(batch, shift, m))
    method = ICT()
    method.supervised = lambda output, target: output.logits.sum() * 0
    method.teacher = lambda image: output_of(image)
    torch.manual_seed(0)
    image = torch.randn(20000, 2, 1, 1, 1)
    method.losses(identity, Labeled(image[:1], None), Unlabeled(weak=image), END)
    (shift, m), again = drawn
    assert 0 < shift < len(image)
    assert again[0] == shift and again[1] is m
    assert m.shape == (20000, 1, 1, 1, 1)
    assert m.mean().item() == pytest.approx(0.5, abs=0.01)
    assert m.var().item() == pytest.approx(0.178571, abs=0.004)
    assert len(m.unique()) > 10000


def test_no_patch_is_its_own_partner():
    method = ICT()
    method.supervised = lambda output, target: output.logits.sum() * 0
    method.teacher = lambda image: output_of(image)
    image = torch.arange(1.0, 4.0).view(3, 1, 1, 1)
    partners = set()
    for seed in range(20):
        torch.manual_seed(seed)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.distributions, "Beta", Fixed(1.0, 1.0, 1.0))
            seen = []
            patch.setattr(ict, "mixed", lambda *arguments, seen=seen: seen.append(mixed(*arguments)) or seen[-1])
            method.losses(identity, Labeled(image[:1], None), Unlabeled(weak=image), END)
        assert (seen[0] != image).all() and sorted(seen[0].flatten().tolist()) == [1, 2, 3]
        partners.add(tuple(seen[0].flatten().tolist()))
    assert len(partners) == 2  # both derangements of three patches occur


def test_targets_are_distributions_and_neither_teacher_nor_labeled_patches_learn(tiny_net):
    net, method = ready(tiny_net, channels=3)
    method.supervised = lambda output, target: output.logits.sum() * 0
    torch.manual_seed(0)
    labeled, image = torch.randn(3, 1, 16, 16), torch.randn(4, 1, 16, 16)
    targets = mixed(method.teacher(image).probs, 1, torch.rand(4, 1, 1, 1))
    torch.testing.assert_close(targets.sum(1), torch.ones(4, 16, 16))
    sizes, outputs = [], []

    def watched(*batches):
        sizes.extend(len(batch) for batch in batches)
        outputs.extend(net(*batches))
        for output in outputs:
            output.logits.retain_grad()
        return outputs

    terms = method.losses(watched, Labeled(labeled, None), Unlabeled(weak=image), END)
    terms["consistency"].backward()
    assert sizes == [3, 4]  # as many mixtures as unlabeled patches
    assert outputs[0].logits.grad is None and outputs[1].logits.grad.any()
    assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())


def test_one_patch_cannot_be_mixed(tiny_net):
    method = ICT()
    method.task = task(unlabeled_batch_size=1)
    with pytest.raises(NotImplementedError, match="unlabeled_batch_size"):
        method.setup(tiny_net(), None)


@pytest.mark.parametrize("wrong", [{"alpha": 0.0}, {"alpha": float("nan")}, {"weight": -1.0}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ICT(**wrong)
