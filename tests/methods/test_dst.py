"""DST against its closed forms and the gradients that its roles promise; DHC's roles as well."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F
from workbench import output, task, tiny_architecture

from nnunet_ssl.losses.worst_case import contradiction, worst_case
from nnunet_ssl.method import Labeled, Now, Unlabeled
from nnunet_ssl.methods import dst, dst_dhc
from nnunet_ssl.methods.dst import DST
from nnunet_ssl.methods.dst_dhc import DSTDHC

END = Now(step=99, epoch=9, fraction=1.0)
AT_N = Now(step=9, epoch=0, fraction=0.022)  # the coefficient is 0.046211716


def voxel(*logits, regions=False):
    return output(torch.tensor(logits).view(1, -1, 1, 1).requires_grad_(), regions)


def ready(tiny_net, made=DST, dimensions=2, regions=False, ignore=None, **arguments):
    """A method with 3 channels; the supervised loss is the mean of all squared logits of all scales."""
    net, method = tiny_net(dimensions, 3, regions=regions), made(**arguments)
    method.task = task(dimensions, 3, regions, ignore_label=ignore)
    method.supervised = lambda output, target: torch.stack([z.square().mean() for z in output.pyramid]).mean()
    method.setup(net, tiny_architecture(dimensions, 3, seed=7))
    return net, method


def batch(dimensions=2, regions=False, ignore=None):
    torch.manual_seed(3)
    shape = (2, 1, *[16] * dimensions)
    labels = torch.randint(0, 4, shape).float()
    labels = torch.cat([(labels > c).float() for c in range(3)], 1) if regions else labels.clamp_max(2)
    if ignore is not None:
        labels[..., :8] = ignore
    target = task(dimensions, 3, regions, ignore_label=ignore).target(labels)
    return Labeled(torch.randn(shape), target), Unlabeled(torch.randn(shape), torch.randn(shape))


def gradients(module):
    return {name: None if p.grad is None else p.grad.clone() for name, p in module.named_parameters()}


# ---------------------------------------------------------------------- closed forms


def test_the_worst_case_of_two_voxels():
    main = voxel(3.0, 0.0, 0.0), voxel(0.0, 2.0, 0.0)
    worst = voxel(1.0, 0.0, 0.0), voxel(0.0, 1.0, -1.0)
    assert worst_case(worst, main, 1.0).item() - worst_case(worst, main, 0.0).item() == pytest.approx(
        0.551445, abs=1e-6
    )
    assert contradiction(worst[1], main[1].hard).item() == pytest.approx(1.094341, abs=1e-6)
    loss = worst_case(worst, main, 2.0)
    assert loss.item() == pytest.approx(2.197231, abs=1e-6)
    loss.backward()
    assert main[0].logits.grad is None and main[1].logits.grad is None
    assert worst[0].logits.grad[0, 0] < 0 < worst[1].logits.grad[0, 1]  # towards the one label, away from the other


def test_the_contradiction_is_bounded_where_the_worst_head_agrees_without_doubt():
    sure = voxel(1e4, 0.0, 0.0)
    assert contradiction(sure, sure.hard).item() == pytest.approx(13.815511, abs=1e-5)
    assert contradiction(sure, torch.ones(1, 1, 1, dtype=torch.long)).item() == 0


def test_regions_are_contradicted_on_the_side_that_the_main_head_says():
    worst, main = voxel(2.0, -1.0, regions=True), voxel(1.0, -3.0, regions=True)
    q = torch.tensor([0.880797, 0.731059])  # of inside of the first, of outside of the second
    torch.testing.assert_close(contradiction(worst, main.hard), -(1 - q + 1e-6).log().mean(), atol=1e-5, rtol=0)
    expected = 2 * -q.log().mean() - (1 - q + 1e-6).log().mean()
    torch.testing.assert_close(worst_case((worst, worst), (main, main), 2.0), expected, atol=1e-5, rtol=0)


# ---------------------------------------------------------------------- the paper's roles


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_each_head_has_the_part_that_the_formulas_give_it(tiny_net, dimensions, regions):
    net, method = ready(tiny_net, dimensions=dimensions, regions=regions, threshold=0.4, weight=0.5, worst_weight=3.0)
    labeled, unlabeled = batch(dimensions, regions)
    terms = method.losses(net, labeled, unlabeled, END)
    seg, weak, strong = net(labeled.image, unlabeled.weak, unlabeled.strong)
    kind, p = net.kind, net.kind.probs(weak.logits)
    sure = torch.maximum(p, 1 - p) > 0.4 if regions else p.amax(1) > 0.4
    losses = kind.cross_entropy(method.pseudo_head(strong.features["head"]), weak.hard)
    torch.testing.assert_close(terms["self_training"], 0.5 * (sure * losses).mean())
    q = kind.probs(method.worst_head(weak.features["head"]))
    q = torch.where(weak.hard > 0, q, 1 - q) if regions else q.gather(1, weak.hard[:, None])
    agreement = kind.cross_entropy(method.worst_head(seg.features["head"]), seg.hard, "mean")
    expected = 3 * (2 * agreement - (1 - q + 1e-6).log().mean())
    torch.testing.assert_close(terms["worst_case"], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(terms["supervised"], method.supervised(seg, None))
    assert 0 < method.report["admitted"] <= 1 and method.report["reversal"] == pytest.approx(0.1)


def test_every_head_gets_a_gradient_and_the_main_one_none_from_pseudo_labels(tiny_net):
    found = []
    for weights in ({}, {"weight": 0.0}, {"weight": 0.0, "worst_weight": 0.0}):
        net, method = ready(tiny_net, threshold=0.4, **weights)
        torch.manual_seed(5)
        for parameter in method.parameters():  # the same heads each time
            torch.nn.init.normal_(parameter, std=0.1)
        sum(method.losses(net, *batch(), END).values()).backward()
        found.append(gradients(net.module))
        assert all(gradient is not None for gradient in (*found[-1].values(), *gradients(method).values()))
        assert weights or all(gradient.any() for gradient in gradients(method).values())
    whole, without_pseudo_labels, supervised = found
    for name in whole:
        if "seg_layers" in name:
            torch.testing.assert_close(whole[name], without_pseudo_labels[name], atol=1e-8, rtol=1e-5)
            torch.testing.assert_close(whole[name], supervised[name], atol=1e-8, rtol=1e-5)
    stem = "encoder.stages.0.0.convs.0.conv.weight"
    assert (whole[stem] - without_pseudo_labels[stem]).abs().max() > 1e-4
    assert (without_pseudo_labels[stem] - supervised[stem]).abs().max() > 1e-4


def test_the_worst_case_reaches_features_reversed_and_scaled(tiny_net, monkeypatch):
    found = []
    for reverse in (True, False):
        net, method = ready(tiny_net)
        torch.manual_seed(5)
        for parameter in method.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        if not reverse:
            monkeypatch.setattr(dst, "reversed_gradient", lambda features, coefficient: features)
        method.losses(net, *batch(), AT_N)["worst_case"].backward()
        found.append((gradients(net.module.encoder), gradients(method.worst_head)))
    (encoder, head), (plain_encoder, plain_head) = found
    assert any(gradient.abs().max() > 1e-4 for gradient in plain_encoder.values())
    for name, gradient in encoder.items():
        torch.testing.assert_close(gradient, -0.046211716 * plain_encoder[name], atol=1e-7, rtol=1e-4)
    for name, gradient in head.items():
        assert torch.equal(gradient, plain_head[name])


def test_without_a_sure_voxel_self_training_is_nothing_and_finite(tiny_net):
    net, method = ready(tiny_net, threshold=1.0)
    term = method.losses(net, *batch(), END)["self_training"]
    term.backward()
    assert term == 0 and method.report["admitted"] == 0
    assert all(gradient is not None and not gradient.any() for gradient in gradients(method.pseudo_head).values())


def test_voxels_that_are_not_annotated_do_not_count(tiny_net):
    net, method = ready(tiny_net, ignore=3, worst_weight=1.0, labeled_weight=2.0)
    labeled, unlabeled = batch(ignore=3)
    term = method.losses(net, labeled, unlabeled, END)["worst_case"]
    seg, weak = net(labeled.image, unlabeled.weak)
    logits = method.worst_head(seg.features["head"])
    agreement = F.cross_entropy(logits[..., 8:], seg.hard[..., 8:])
    apart = contradiction(output(method.worst_head(weak.features["head"])), weak.hard)
    torch.testing.assert_close(term, 2 * agreement + apart)


def test_nothing_is_compiled_anew_as_the_coefficient_rises(tiny_net, monkeypatch):
    graphs = []

    def backend(graph, example):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    net, method = tiny_net(2, 3), DST()
    net.network = torch.compile(net.network)
    method.task, method.supervised = task(2, 3), lambda output, target: output.logits.mean()
    method.setup(net, tiny_architecture(2, 3))
    made = []
    for fraction in (0.01, 0.02, 0.5):
        method.losses(net, *batch(), Now(1, 1, fraction))
        made.append(len(graphs))
    assert made[0] >= 2 and made == made[:1] * 3


def test_the_plans_own_network_predicts(tiny_net):
    net, method = ready(tiny_net)
    assert method.deployed(net) is net.module
    assert list(method.state_dict()) == [
        f"{head}.layers.{layer}.{part}"
        for head in ("pseudo_head", "worst_head")
        for layer in (0, 2)
        for part in ("weight", "bias")
    ]


def test_presets():
    assert DST.of_preset("published")[1] == {"threshold": 0.7}
    made, values = DST.of_preset("dhc")
    assert made is DSTDHC and (values["threshold"], values["weight"], values["rampup"]) == (0.95, 1.0, 1.0)


@pytest.mark.parametrize("made", [DST, DSTDHC])
@pytest.mark.parametrize("wrong", [{"threshold": 1.1}, {"reversal": -1.0}, {"warmup": 2.0}, {"labeled_weight": -1.0}])
def test_values_out_of_range_are_refused(made, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        made(**wrong)


# ---------------------------------------------------------------------- the roles of DHC's code


@pytest.mark.parametrize("dimensions", [2, 3])
def test_in_dhcs_code_the_pseudo_decoder_of_one_network_labels_for_the_other(tiny_net, dimensions):
    net, method = ready(tiny_net, DSTDHC, dimensions, threshold=0.4, rampup=0.0)
    labeled, unlabeled = batch(dimensions)
    for parameter in method.pseudo[1].parameters():
        parameter.add_(0.1)
    terms = method.losses(net, labeled, unlabeled, END)
    x = torch.cat((labeled.image, unlabeled.weak))
    mains, pseudo, worst = [], [], []
    for network, decoder, head in zip((net, method.second), method.pseudo, method.worst, strict=True):
        mains.append(network(x))
        pseudo.append(decoder(mains[-1].features["skips"]).softmax(1))
        worst.append(head(mains[-1].features["skips"]))
    cross = worst_cases = 0
    for n in (0, 1):
        p, c = pseudo[1 - n], mains[n].logits.argmax(1)
        cross += ((p.amax(1) > 0.4) * F.cross_entropy(mains[n].logits, p.argmax(1), reduction="none")).mean()
        q = worst[n].softmax(1).gather(1, c[:, None])[2:]
        worst_cases += 2 * F.cross_entropy(worst[n][:2], c[:2]) - (1 - q + 1e-6).log().mean()
    assert 0 < method.report["admitted"] < 1
    torch.testing.assert_close(terms["cross"], cross)
    torch.testing.assert_close(terms["worst_case"], worst_cases, atol=1e-5, rtol=1e-5)


def test_in_dhcs_code_the_pseudo_decoders_never_learn(tiny_net):
    net, method = ready(tiny_net, DSTDHC, threshold=0.0)
    sum(method.losses(net, *batch(), END).values()).backward()
    assert all(gradient is None for gradient in gradients(method.pseudo).values())
    assert all(gradient is not None for gradient in gradients(method.worst).values())
    assert all(gradient is not None for gradient in (*gradients(net.module).values(), *gradients(method.twin).values()))


def test_in_dhcs_code_all_scales_of_both_encoders_are_reversed(tiny_net, monkeypatch):
    found = []
    for reverse in (True, False):
        net, method = ready(tiny_net, DSTDHC, warmup=0.022, rampup=0.0)
        if not reverse:
            monkeypatch.setattr(dst_dhc, "reversed_gradient", lambda features, coefficient: features)
        method.losses(net, *batch(), AT_N)["worst_case"].backward()
        found.append(
            {**gradients(net.module.encoder), **{f"b.{n}": g for n, g in gradients(method.twin.encoder).items()}}
        )
    assert any(gradient.abs().max() > 1e-4 for gradient in found[1].values())
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, -0.046211716 * found[1][name], atol=1e-7, rtol=1e-4)
