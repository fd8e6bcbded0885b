"""Co-BioNet against its closed forms, what the released code computes, and who is stepped when."""

from dataclasses import replace

import pytest
import torch
from tiny_steps import LATE, batches, gradients, optimizers_of, ready
from torch import nn
from workbench import kind, target, task

from nnunet_ssl.method import Now
from nnunet_ssl.methods.co_bionet import CoBioNet
from nnunet_ssl.networks.critic import Critic
from nnunet_ssl.networks.net import Output

# foreground probabilities of three unlabeled voxels, and what each critic says of its network's
Q1, Q2, Z = [0.7, 0.4, 0.9], [0.6, 0.2, 0.8], [0.7, 0.3, 0.5]
FORMS = pytest.mark.parametrize("regions", [False, True], ids=["classes", "region"])


def said(p, regions=False):
    """An output with these probabilities of the foreground, or of the only region."""
    p = torch.tensor(p).view(1, 1, -1)
    logits = p.logit() if regions else torch.cat(((1 - p).log(), p.log()), 1)
    return Output([logits.requires_grad_()], kind(2 - regions, regions))


class Says(Critic):
    """Gives voxels these probabilities of being ground truth."""

    def __init__(self, *probs):
        super().__init__(kind(2))
        self.verdict = torch.tensor(probs).logit()

    def forward(self, maps, counted=None):
        return self.verdict.view(1, 1, -1)


def crossed(z1, z2, regions=False, **arguments):
    """The terms of what the networks learn from each other, both outputs, and the method."""
    method, q1, q2 = CoBioNet(**arguments), said(Q1, regions), said(Q2, regions)
    method.critic, method.twin_critic = Says(*z1), Says(*z2)
    return method.cross(q1, q2), q1, q2, method


NONE, ALL_VOXELS = [0.1] * 3, [0.9] * 3


@FORMS
def test_a_voxel_counts_again_where_the_others_critic_believes_the_other(regions):
    terms, *_ = crossed(NONE, Z, regions)
    assert terms["believed"].item() == pytest.approx(0.413466, abs=1e-6)
    by_voxel = torch.tensor([0.695594, 0.591919, 0.544805])  # of the first; the second's from its formula
    q1, q2 = torch.tensor(Q1), torch.tensor(Q2)
    second = -(q1 * q2.log() + (1 - q1) * (1 - q2).log())
    assert terms["cross"].item() == pytest.approx(by_voxel.mean().item() + second.mean().item(), abs=1e-6)
    assert by_voxel.mean().item() == pytest.approx(0.610773, abs=1e-6)
    terms, *_ = crossed(Z, NONE, regions)
    assert terms["believed"].item() == pytest.approx(second[[0, 2]].sum().item() / 3, abs=1e-6)


@FORMS
def test_released_code_multiplies_the_mean_by_the_share_and_has_no_gradient_of_the_rest(regions):
    terms, *_, method = crossed(NONE, Z, regions, released=True)
    assert list(terms) == ["believed"] and terms["believed"].item() == pytest.approx(0.407182, abs=1e-6)
    assert not method.report["cross"].requires_grad
    assert method.report["cross"].item() == pytest.approx(crossed(NONE, Z, regions)[0]["cross"].item())


def test_released_code_has_share_and_mean_of_each_region():
    method, p = CoBioNet(released=True), torch.tensor([[0.7, 0.4, 0.9], [0.2, 0.6, 0.3]])[None]
    q1, q2 = (Output([each.logit()], kind(2, True)) for each in (p, p.flip(1)))
    method.critic, method.twin_critic = (Critic(kind(2, True)) for _ in "12")
    none, some = torch.full((1, 2, 3), -2.0), torch.tensor([[[1.0, 1.0, -2.0], [1.0, -2.0, -2.0]]])
    method.critic.forward, method.twin_critic.forward = lambda *_: none, lambda *_: some
    wanted, losses = p.flip(1), []
    for region in (0, 1):
        losses.append(torch.nn.functional.binary_cross_entropy(p[:, region], wanted[:, region]))
    expected = (2 / 3 * losses[0] + 1 / 3 * losses[1]) / 2
    torch.testing.assert_close(method.cross(q1, q2)["believed"], expected)


@pytest.mark.parametrize("released", [False, True])
def test_where_no_critic_believes_anything_nothing_counts_again(released):
    terms, q1, q2, method = crossed(NONE, NONE, released=released)
    assert terms["believed"] == 0 and method.report["admitted"] == 0
    terms["believed"].backward()
    assert not q1.logits.grad.any() and not q2.logits.grad.any()


def test_targets_of_the_cross_terms_and_belief_have_no_gradient():
    """Each gradient is that of a soft cross-entropy with fixed targets: (1 + M) (q_mine - q_other) / 3 per voxel."""
    terms, q1, q2, _ = crossed(ALL_VOXELS, Z)
    sum(terms.values()).backward()
    difference, believed = torch.tensor(Q1) - torch.tensor(Q2), torch.tensor([1.0, 0.0, 1.0])
    torch.testing.assert_close(q1.logits.grad[0, 1], (1 + believed) * difference / 3)
    torch.testing.assert_close(q2.logits.grad[0, 1], -2 * difference / 3)


@pytest.mark.parametrize("released", [False, True])
def test_each_step_moves_its_own_networks(released):
    net, method = ready(CoBioNet, 2, 3, False, released=released)
    critics = [*method.critic.parameters(), *method.twin_critic.parameters()]
    (sgd,) = optimizers_of(net, method)
    assert not method.optimizer.joint and not {*critics} & {*sgd.param_groups[0]["params"]}
    before = [parameter.clone() for parameter in critics]
    terms = method.losses(net, *batches(2, 3, False), LATE)
    sum(terms.values()).backward()
    assert all(parameter.grad is None for parameter in critics)
    sgd.step()
    networks = [*net.module.parameters(), *method.twin.parameters()]
    moved, slopes = [p.clone() for p in networks], [None if p.grad is None else p.grad.clone() for p in networks]

    method.after_step(net, LATE)
    for old, new in zip(before, critics, strict=True):
        assert torch.equal(old, new) == released
        assert not new.requires_grad
    assert all(map(torch.equal, moved, networks)) and not hasattr(method, "seen")
    for slope, parameter in zip(slopes, networks, strict=True):
        assert slope is None or torch.equal(slope, parameter.grad)
    assert ("critics" in method.report) != released


def test_a_network_learns_nothing_from_its_own_word_as_the_others_target():
    """Without the terms of both, the first network's terms leave the second alone, and the other way round."""
    net, method = ready(CoBioNet, 2, 3, False)
    first, second, _ = method.both(net, *batches(2, 3, False))
    q1, fixed = first, second.detach()
    terms = method.cross(q1, fixed)
    method.critic.deceived(q1.probs).backward(retain_graph=True)
    sum(terms.values()).backward()
    assert gradients(net) and all(parameter.grad is None for parameter in method.twin.parameters())


def test_weights_of_the_terms_and_their_ramp():
    labeled, unlabeled = batches(2, 3, False)
    for fraction, ramp in ((0.0, 0.006738), (0.2, 0.286505), (0.4, 1.0), (0.9, 1.0)):
        net, method = ready(CoBioNet, 2, 3, False, **CoBioNet.presets["published"])
        assert CoBioNet().ramped_weight(Now(1, 1, fraction)) == pytest.approx(ramp / 10, rel=1e-4)
        terms = method.losses(net, labeled, unlabeled, Now(1, 1, fraction))
        first, second, sizes = method.both(net, labeled, unlabeled)
        (seg1, q1), (seg2, q2) = first.split(sizes), second.split(sizes)
        expected = {
            "supervised": 0.7 * method.supervised(seg1, labeled.target),
            "supervised_twin": 0.7 * method.supervised(seg2, labeled.target),
            "adversarial": 0.01 * ramp * (method.critic.loss(first.probs, real=True) +
                                          method.twin_critic.loss(second.probs, real=True)),
        } | {name: ramp * term for name, term in method.cross(q1, q2).items()}  # fmt: skip
        assert terms.keys() == expected.keys()
        for name, term in terms.items():
            assert term.item() == pytest.approx(expected[name].item(), rel=1e-4), name


@pytest.mark.parametrize("regions", [False, True])
def test_critics_learn_from_truth_and_predictions_of_counted_voxels(regions):
    """What stands in ignored voxels, in the image's prediction as in the label, changes no critic."""
    labeled, unlabeled = batches(2, 2, False)
    channels, number = 2, labeled.target.full
    ignored = torch.zeros(2, 1, 16, 16, dtype=torch.bool)
    ignored[..., 8:, :] = True
    if regions:
        full = torch.cat(((number > 0).float(), (number > 1).float(), ignored.float()), 1)
    else:
        full = torch.where(ignored, 3.0, number)
    made = target([full, full[..., ::2, ::2]], channels, regions, ignore=3)
    net, method = ready(CoBioNet, 2, channels, regions)
    method.task = task(2, channels, regions, ignore_label=3)
    method.supervised = lambda output, target: output.logits.mean()
    method.losses(net, replace(labeled, target=made), unlabeled, LATE)
    (y, known), ((p1, counted), _) = method.seen
    assert torch.equal(known, ~ignored[:, 0]) and counted[:2].equal(known) and counted[2:].all()
    start = {name: tensor.clone() for name, tensor in method.critic.state_dict().items()}
    after = []
    for change in (False, True):
        method.critic.load_state_dict(start)
        method.optimizer.optimizer.state.clear()
        other = torch.where(known[:, None], y, ~y) if change else y
        wrong = torch.where(counted[:, None], p1, 1 - p1) if change else p1
        method.seen = (other, known), [(wrong, counted), (p1, counted)]
        method.after_step(net, LATE)
        after.append(torch.cat([tensor.flatten() for tensor in method.critic.state_dict().values()]))
    assert not torch.equal(after[0], torch.cat([tensor.flatten() for tensor in start.values()]))
    assert torch.equal(*after)


def test_labels_are_the_critics_truth():
    labeled, unlabeled = batches(2, 3, False)
    net, method = ready(CoBioNet, 2, 3, False)
    method.losses(net, labeled, unlabeled, LATE)
    (y, known), (first, second) = method.seen
    assert known is None and torch.equal(y.float().argmax(1), labeled.target.labels) and (y.sum(1) == 1).all()
    torch.testing.assert_close(first[0], net.predict(torch.cat((labeled.image, unlabeled.weak))).probs)
    expected = method.critic.error((y, None), first) + method.twin_critic.error((y, None), second)
    method.after_step(net, LATE)
    torch.testing.assert_close(method.report["critics"], expected.detach())


def test_critics_begin_apart_and_have_the_published_optimizer():
    _, method = ready(CoBioNet, 2, 3, False)
    for own in (method.optimizer, method.twin_optimizer):
        assert isinstance(own.optimizer, torch.optim.AdamW)
        assert (own.optimizer.param_groups[0]["lr"], own.optimizer.param_groups[0]["weight_decay"]) == (1e-4, 0.01)
    method.setup(*ready(CoBioNet, 2, 3, False)[0:1], nn.Identity)
    assert not torch.equal(method.critic.layers[0].weight, method.twin_critic.layers[0].weight)


@pytest.mark.parametrize(
    "wrong", [{"threshold": 1.5}, {"supervised_weight": -1.0}, {"adversarial": -1.0}, {"critic_lr": -1.0}]
)
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CoBioNet(**wrong)
