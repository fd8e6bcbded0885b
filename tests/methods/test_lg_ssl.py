"""LG-SSL against its closed forms, and who teaches its prompts."""

import json
from dataclasses import replace

import pytest
import torch
from tiny_steps import LATE, batches, ready
from workbench import output, tiny_architecture

from nnunet_ssl.errors import InputError
from nnunet_ssl.method import Unlabeled
from nnunet_ssl.methods.lg_ssl import LGSSL
from nnunet_ssl.networks.text_embeddings import without_language

PROMPTS = ("guidance.prompts.shift", "guidance.prompts.adapter.weight")


def of_voxels(*values):
    return output(torch.logit(torch.tensor(values)).view(1, 1, 1, -1), regions=True).probs


def test_agreement_and_differences_of_two_voxels():
    p_1, p_2, q_1, q_2 = of_voxels(0.9, 0.2), of_voxels(0.7, 0.1), of_voxels(0.6, 0.4), of_voxels(0.5, 0.4)
    l_1, l_2 = LGSSL().consistency(p_1 - p_2, q_1 - q_2)
    assert l_1.item() == pytest.approx(0.005, abs=1e-6)
    assert l_2.item() == pytest.approx(0.01, abs=1e-6)
    assert l_2.item() == pytest.approx(((p_1 - q_1) - (p_2 - q_2)).square().mean().item(), abs=1e-6)


@pytest.mark.parametrize(("labeled", "unlabeled"), [(2, 3), (3, 2)])
def test_of_the_smaller_number_of_patches_the_first_are_paired_again(labeled, unlabeled):
    p, q = torch.tensor([0.1, 0.2, 0.3])[:labeled, None], torch.tensor([0.0, 0.5, 0.9])[:unlabeled, None]
    wanted = [p[i % labeled] - q[i % unlabeled] for i in range(3)]
    assert LGSSL().consistency(p, q)[1].item() == pytest.approx(torch.stack(wanted).square().mean().item())


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_terms_are_the_formulas(dimensions, regions):
    net, made = ready(LGSSL, dimensions, 3, regions, weight=2.0)
    labeled, unlabeled = batches(dimensions, 3, regions)
    terms = made.losses(net, labeled, unlabeled, LATE)
    *skips, deep = net.module.encoder(torch.cat((labeled.image, unlabeled.weak)))
    skips = [*skips, net.module.guidance(deep)]
    first, second = (output(decoder(skips), regions) for decoder in (net.module.decoder, made.decoders[0]))
    (p_1, q_1), (p_2, q_2) = (each.probs.split(2) for each in (first, second))
    torch.testing.assert_close(terms["agreement"], 2 * (q_1 - q_2).square().mean())
    torch.testing.assert_close(terms["differences"], 2 * ((p_1 - q_1) - (p_2 - q_2)).square().mean())
    assert terms["agreement"] > 0 and terms["differences"] > 0
    for name, each in (("supervised", first), ("supervised_second", second)):
        torch.testing.assert_close(terms[name], made.supervised(each.split([2, 2])[0], labeled.target))


def test_one_encoder_pass_serves_both_decoders_and_every_weight_learns():
    net, made = ready(LGSSL, 2, 3, False)
    labeled, unlabeled = batches(2, 3, False)
    passes = []
    net.module.encoder.register_forward_hook(lambda *_: passes.append(1))
    sum(made.losses(net, labeled, unlabeled, LATE).values()).backward()
    assert passes == [1]
    assert all(p.grad is not None for p in [*net.module.parameters(), *made.parameters()])


def prompts_and_fusion_moved(term, unlabeled_only):
    """Which weights of the guidance a loss on predictions of one kind of patches moves."""
    net, made = ready(LGSSL, 2, 3, False)
    labeled, unlabeled = batches(2, 3, False)
    net.module.guidance.taught = len(labeled.image)
    seg, free = net(labeled.image, unlabeled.weak)
    term(free if unlabeled_only else seg).backward()
    assert not net.module.guidance.prompts.text.requires_grad
    moved = {name: p.grad for name, p in net.module.named_parameters() if name.startswith("guidance.")}
    return {name for name, gradient in moved.items() if gradient is not None and gradient.abs().sum() > 0}


def test_labeled_patches_alone_teach_the_prompts_and_all_patches_the_fusion():
    fusion = {f"guidance.fusion.{part}" for part in ("a.weight", "b.weight", "m.weight", "spread.0.weight")}
    loss = lambda each: each.logits.square().mean()  # noqa: E731
    assert prompts_and_fusion_moved(loss, unlabeled_only=True) >= fusion
    assert prompts_and_fusion_moved(loss, unlabeled_only=True).isdisjoint(PROMPTS)
    assert prompts_and_fusion_moved(loss, unlabeled_only=False) >= fusion | set(PROMPTS)


def test_the_agreement_on_unlabeled_patches_does_not_move_the_prompts_and_the_differences_do():
    for term, moves in (("agreement", False), ("differences", True)):
        net, made = ready(LGSSL, 2, 3, False)
        labeled, unlabeled = batches(2, 3, False)
        made.losses(net, labeled, Unlabeled(unlabeled.weak), LATE)[term].backward()
        gradients = {name: p.grad for name, p in net.module.named_parameters()}
        assert all((g is not None and bool(g.abs().sum() > 0)) == moves for g in map(gradients.get, PROMPTS))


def embeddings(folder, **changes):
    rows = {f"channel_{c}": (torch.arange(768) / 768 + c).tolist() for c in range(3)} | changes
    file = folder / "embeddings.json"
    file.write_text(json.dumps(rows), encoding="utf-8")
    return file


def test_the_text_of_a_file_is_read_by_name_and_travels_with_the_weights(tmp_path):
    file = embeddings(tmp_path, channel_9=[0.0] * 768)
    net, made = ready(LGSSL, 2, 3, False, embeddings=str(file))
    made.task = replace(made.task, channels=("channel_2", "channel_0", "channel_1"))
    made.setup(net, tiny_architecture(2, 3))
    text = net.module.guidance.prompts.text
    assert text[:, 0].tolist() == [2, 0, 1] and made.text == f"{file}, which has 1 further names"
    predicts = LGSSL.model(tiny_architecture(2, 3))
    predicts.load_state_dict(made.deployed(net).state_dict())
    image = torch.randn(1, 1, 16, 16)
    for each in (predicts, net.module):
        each.eval()
    assert torch.equal(predicts.guidance.prompts.text, text)
    assert all(torch.equal(a, b) for a, b in zip(predicts(image), net.module(image), strict=True))


def test_without_a_file_the_text_is_one_random_table_and_is_said_to_be_none():
    net, made = ready(LGSSL, 2, 3, False)
    text = net.module.guidance.prompts.text
    assert torch.equal(text, without_language(3)) and "NO LANGUAGE PRIOR" in made.text
    torch.testing.assert_close(text.norm(dim=1), torch.ones(3))


def test_a_file_without_a_class_is_refused_at_set_up(tmp_path):
    file = embeddings(tmp_path)
    with pytest.raises(InputError, match=r"embeddings.json, class 'channel_3': it has no embedding"):
        ready(LGSSL, 2, 4, False, embeddings=str(file))


@pytest.mark.parametrize("residual", [False, True])
def test_nnunet_builds_the_network_that_predicts_from_the_plans(residual):
    architecture = tiny_architecture(3, 2)
    architecture = architecture.of_another_form() if residual else architecture
    net, made = ready(LGSSL, 3, 2, False, architecture=lambda *sizes, seed=5: replace(architecture, seed=seed))
    assert made.deployed(net) is net.module
    LGSSL.model(architecture).load_state_dict(net.module.state_dict())


@pytest.mark.parametrize("wrong", [{"weight": -1.0}, {"rampup": 2.0}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LGSSL(**wrong)
