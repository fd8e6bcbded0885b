"""Deep co-training against its closed forms."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from workbench import kind, target, task, tiny_network
from workbench import output as output_of

from nnunet_ssl.losses.divergence import jensen_shannon
from nnunet_ssl.method import Labeled, Now, Unlabeled
from nnunet_ssl.methods import dct
from nnunet_ssl.methods.dct import DCT, robustness
from nnunet_ssl.networks.adversarial import fast_gradient_sign
from nnunet_ssl.networks.net import Net, Output

LATE, EARLY = Now(500, 5, 0.5), Now(10, 0, 0.1)


def output(*logits, regions=False) -> Output:
    return output_of(torch.tensor(logits).view(1, -1, 1, 1).requires_grad_(), regions)


def ready(net, dimensions=2, channels=3, regions=False, ignore_label=None, **arguments) -> DCT:
    method = DCT(**arguments)
    method.task = task(dimensions, channels, regions, ignore_label=ignore_label)
    method.supervised = lambda output, target: output.logits.square().mean()
    method.setup(net, partial(tiny_network, dimensions, channels, seed=5))
    return method


def batches(dimensions=2, labeled=3, unlabeled=2, classes=3):
    torch.manual_seed(1)
    image = torch.randn(labeled + unlabeled, 1, *[16] * dimensions)
    labels = torch.randint(classes, (labeled, 1, *[16] * dimensions)).float()
    return Labeled(image[:labeled], target([labels, labels[..., ::2]], classes)), Unlabeled(weak=image[labeled:])


def test_the_cross_entropy_that_the_robustness_term_holds():
    clean, fooled = output(0.0, 1.0), output(2.0, 0.0)
    held = robustness(clean, fooled) + clean.kind.entropy_of_logits(clean.logits).mean()
    assert held.item() == pytest.approx(1.589045, abs=1e-6)


def test_only_the_prediction_on_the_attacked_image_learns():
    clean, fooled = output(0.0, 1.0), output(2.0, 0.0)
    robustness(clean, fooled).backward()
    assert clean.logits.grad is None
    expected = fooled.logits.detach().softmax(1) - clean.logits.detach().softmax(1)
    torch.testing.assert_close(fooled.logits.grad, expected)


def test_a_step_is_what_the_formulas_say(tiny_net):
    net = tiny_net(2, 3)
    method = ready(net)
    labeled, unlabeled = batches()
    terms = method.losses(net, labeled, unlabeled, LATE)

    x = torch.cat((labeled.image, unlabeled.weak))
    networks = net.module, method.twin
    attacked, clean = [], []
    for network in networks:
        goal = torch.cat((labeled.target.labels, network(unlabeled.weak)[0].argmax(1)))
        image = x.clone().requires_grad_()
        F.cross_entropy(network(image)[0], goal, reduction="sum").backward()
        attacked.append(x + 0.03 * image.grad.sign())
        clean.append(network(x)[0])
    p1, p2 = (logits.softmax(1) for logits in clean)
    q1, q2 = networks[0](attacked[1])[0].log_softmax(1), networks[1](attacked[0])[0].log_softmax(1)
    towards = (p1 * (p1.log() - q2)).sum(1).mean() + (p2 * (p2.log() - q1)).sum(1).mean()
    torch.testing.assert_close(terms["adversarial"], 0.05 * towards / 2, rtol=1e-3, atol=1e-7)
    agreement = jensen_shannon(*(output_of(logits[3:]) for logits in clean)).mean()
    torch.testing.assert_close(terms["agreement"], 0.5 * agreement)
    torch.testing.assert_close(terms["supervised"], clean[0][:3].square().mean())
    torch.testing.assert_close(terms["supervised_twin"], clean[1][:3].square().mean())


def test_one_forward_of_each_network_and_each_sees_the_attacks_on_the_other(tiny_net, monkeypatch):
    net, calls = tiny_net(2, 3), []
    method = ready(net)

    def fake(network, image, kind, error, epsilon):
        return image + (1 if network is net.module else 2)

    def watched(name, network):
        def forward(*images):
            calls.append((name, images))
            return network(*images)

        forward.module, forward.kind = net.module, net.kind
        return forward

    monkeypatch.setattr(dct, "fast_gradient_sign", fake)
    method.second = watched("second", method.second)
    labeled, unlabeled = batches()
    method.losses(watched("first", net), labeled, unlabeled, LATE)
    x = torch.cat((labeled.image, unlabeled.weak))
    (first, seen1), (second, seen2) = calls
    assert (first, second) == ("first", "second")
    assert torch.equal(seen1[0], x) and torch.equal(seen2[0], x)
    assert torch.equal(seen1[1], x + 2) and torch.equal(seen2[1], x + 1)


def test_before_its_start_the_adversarial_term_is_skipped(tiny_net, monkeypatch):
    net = tiny_net(2, 3)
    method = ready(net)
    monkeypatch.setattr(dct, "fast_gradient_sign", None)
    terms = method.losses(net, *batches(), EARLY)
    assert terms["adversarial"].item() == 0 and method.report["adversarial_weight"] == 0
    sum(terms.values()).backward()
    assert any(p.grad is not None and p.grad.any() for p in method.twin.parameters())
    with pytest.raises(TypeError):
        method.losses(net, *batches(), LATE)


@pytest.mark.parametrize(
    ("fraction", "agreement", "adversarial"),
    [
        (0.0, 0.00336897, 0.0),
        (0.16, 0.5 * 0.147180, 0.0),
        (0.17, 0.5 * 0.170071, 0.05 * 0.00673795),
        (0.295, 0.5 * 0.642181, 0.05 * 0.286505),
        (0.42, 0.5, 0.05),
        (0.99, 0.5, 0.05),
    ],
)
def test_weights_of_both_ramps(fraction, agreement, adversarial):
    method, now = DCT(), Now(0, 0, fraction)
    assert method.ramped_weight(now) == pytest.approx(agreement, abs=1e-6)
    assert method.ramped_adversarial_weight(now) == pytest.approx(adversarial, abs=1e-7)


def test_without_ramps_the_adversarial_weight_is_constant_from_its_start():
    method = DCT(rampup=0.0, adversarial_start=0.0)
    assert method.ramped_adversarial_weight(Now(0, 0, 0.0)) == 0.05
    late = DCT(rampup=0.1, adversarial_start=0.5)
    assert late.ramped_adversarial_weight(Now(0, 0, 0.49)) == 0
    assert late.ramped_adversarial_weight(Now(0, 0, 0.5)) == 0.05


def attack(network, method, image, target, labeled):
    error = method.error(method.task.target(target), [labeled, len(image) - labeled])
    return error, fast_gradient_sign(network, image, method.task.kind, error, method.epsilon)


@pytest.mark.parametrize("regions", [False, True])
def test_an_attack_raises_the_error_of_a_linear_model_on_every_patch(regions):
    torch.manual_seed(0)
    model = nn.Conv2d(2, 3, 1)
    method = DCT()
    method.task = task(2, 3, regions)
    image = torch.randn(5, 2, 8, 8)
    target = torch.randint(2, (3, 3, 8, 8)).float() if regions else torch.randint(3, (3, 1, 8, 8)).float()
    error, attacked = attack(model, method, image, target, 3)
    change = (attacked - image).abs()
    assert ((change - 0.03).abs().lt(1e-6) | (change == 0)).all()
    assert all(parameter.grad is None for parameter in model.parameters())
    free = model(image[3:])
    goal = torch.cat((target, (free > 0).float())) if regions else torch.cat((target[:, 0].long(), free.argmax(1)))
    loss = F.binary_cross_entropy_with_logits if regions else F.cross_entropy
    before, after = (loss(model(x), goal, reduction="none").flatten(1).sum(1) for x in (image, attacked))
    assert (after > before).all()
    assert error(output_of(model(image), regions)).item() == pytest.approx(
        before.sum().item() / (3 if regions else 1), rel=1e-4
    )


@pytest.mark.parametrize("regions", [False, True])
def test_voxels_with_the_ignore_label_are_not_attacked(regions):
    torch.manual_seed(0)
    method = DCT()
    method.task = task(2, 3, regions, ignore_label=3)
    image = torch.randn(3, 2, 8, 8)
    ignored = torch.zeros(2, 1, 8, 8)
    ignored[0, :, :4] = 1
    if regions:
        target = torch.cat((torch.randint(2, (2, 3, 8, 8)).float(), ignored), 1)
    else:
        target = torch.where(ignored.bool(), 3.0, torch.randint(3, (2, 1, 8, 8)).float())
    _, attacked = attack(nn.Conv2d(2, 3, 1), method, image, target, 2)
    changed = (attacked != image).all(1)
    assert not changed[0, :4].any() and not (attacked != image)[0, :, :4].any()
    assert changed[0, 4:].all() and changed[1:].all()


def test_attacks_leave_no_gradient_behind_also_under_autocast(tiny_net):
    """Autocast caches the weights that the attack casts; the losses must still reach every weight."""
    reached = []
    for now in (EARLY, LATE):
        net = tiny_net(2, 3)
        method = ready(net)
        with torch.autocast("cpu", torch.bfloat16):
            terms = method.losses(net, *batches(), now)
        parameters = dict(net.module.named_parameters()) | dict(method.twin.named_parameters(prefix="twin"))
        assert all(parameter.grad is None for parameter in parameters.values())
        sum(terms.values()).backward()
        reached.append({name for name, parameter in parameters.items() if parameter.grad is not None})
    assert reached[0] == reached[1] and len(reached[0]) > 40


def test_the_attack_runs_on_plain_modules():
    compiled = []

    def backend(graph, inputs):
        compiled.extend((len(x), x.requires_grad) for x in inputs if x.shape[1:] == (1, 16, 16))
        return graph.forward

    net = Net(torch.compile(tiny_network(2, 3), backend=backend), kind(3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", partial(torch.compile, backend=backend))
        method = ready(net)
    terms = method.losses(net, *batches(), LATE)
    assert terms["adversarial"] > 0
    assert set(compiled) == {(10, False)}  # 5 patches and their attacked images; no graph of an attack


def test_network_one_predicts(tiny_net):
    net = tiny_net(2, 3)
    assert ready(net).deployed(net) is net.module


@pytest.mark.parametrize(
    "wrong",
    [
        {"weight": -1.0},
        {"rampup": 2.0},
        {"adversarial_weight": -0.1},
        {"adversarial_start": 1.1},
        {"epsilon": float("nan")},
    ],
)
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DCT(**wrong)
