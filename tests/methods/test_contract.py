"""What every method must fulfill, in 2D and 3D, for 2 and 5 classes, softmax and regions, float32 and bfloat16."""

import inspect
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import pytest
import torch
from battery import METHODS, REFUSALS, UNET, facts_of, quiet
from tiny_steps import (
    ALL,
    CASES,
    EARLY,
    LATE,
    PRESETS,
    batches,
    copied,
    gradients,
    nnunet_loss,
    optimizers_of,
    ready,
    silent,
    tensors,
    unsupervised,
)
from workbench import task, tiny_architecture

from nnunet_ssl.losses.supervised import Supervised
from nnunet_ssl.method import Now


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize(("method", "values"), PRESETS)
def test_steps_of_presets_are_finite(method, values, regions):
    for now in (EARLY, LATE):
        net, made = ready(method, 2, 3, regions, **values)
        terms = made.losses(net, *batches(2, 3, regions), now)
        assert "supervised" in terms and all(torch.isfinite(term) for term in terms.values())
        sum(terms.values()).backward()
        assert all(torch.isfinite(gradient).all() for gradient in gradients(net).values())


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize(("method", "values"), [*(pytest.param(m, {}, id=m.__name__) for m in METHODS), *PRESETS])
def test_where_nothing_was_annotated_labels_teach_nothing(method, values, regions):
    """Then all foreground may be in what is labeled background: a labeled patch is an unlabeled one."""
    for now in (EARLY, LATE):
        net, made = ready(method, 2, 3, regions, **values)
        labeled, unlabeled = batches(2, 3, regions)
        missing = torch.tensor([regions, True, True]).expand(2, 3)[:, :, None, None]
        blank = tuple(map(torch.zeros_like, labeled.target.scales))
        labeled = replace(labeled, target=replace(labeled.target, scales=blank, missing=missing))
        terms = made.losses(net, labeled, unlabeled, now)
        assert all(term.isfinite() for term in terms.values())
        sum(term for name, term in terms.items() if name.startswith("supervised")).backward()
        assert all(gradient.abs().max() == 0 for gradient in gradients(net).values())


@CASES
@ALL
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_losses_are_finite_and_move_the_student_only(method, dimensions, channels, regions, precision):
    net, made = ready(method, dimensions, channels, regions)
    labeled, unlabeled = batches(dimensions, channels, regions)
    with torch.autocast("cpu", torch.bfloat16) if precision == "bfloat16" else nullcontext():
        terms = made.losses(net, labeled, unlabeled, LATE)
    assert "supervised" in terms
    assert all(term.ndim == 0 and torch.isfinite(term) for term in terms.values())
    assert all(torch.isfinite(torch.as_tensor(value)) for value in made.report.values())
    unsupervised(terms).backward()
    moved = gradients(net)
    assert moved and all(torch.isfinite(gradient).all() for gradient in moved.values())
    assert sum(gradient.abs().sum() for gradient in moved.values()) > 0
    for name, parameter in made.named_parameters():
        if name.startswith("teacher"):
            assert parameter.grad is None and not parameter.requires_grad


@CASES
@pytest.mark.parametrize(
    "method", [m for m in METHODS if facts_of(m).tests.silent is not None], ids=lambda method: method.__name__
)
def test_weight_zero_leaves_nnunets_own_gradient(method, dimensions, channels, regions):
    net, made = ready(method, dimensions, channels, regions, **silent(method))
    labeled, unlabeled = batches(dimensions, channels, regions)
    sum(made.losses(net, labeled, unlabeled, LATE).values()).backward()
    ours = gradients(net)
    net.module.zero_grad()
    nnunet_loss(regions)(net.module(labeled.image), labeled.target.scales).backward()
    for name, gradient in gradients(net).items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-6, rtol=1e-4)


def steps(net, made, optimizers, first, last):
    for step in range(first, last):
        torch.manual_seed(step)
        labeled, unlabeled = batches(2, 3, False, seed=step)
        now = Now(step, step, step / 10)
        for optimizer in optimizers:
            optimizer.zero_grad()
        sum(made.losses(net, labeled, unlabeled, now).values()).backward()
        for optimizer in optimizers:
            optimizer.step()
        made.after_step(net, now)


@ALL
def test_save_load_continue_equals_going_on_bit_for_bit(method):
    net, made = ready(method, 2, 3, False)
    optimizers = optimizers_of(net, made)
    steps(net, made, optimizers, 0, 3)
    saved = copied(
        {"net": dict(net.module.state_dict()), "method": dict(made.state_dict()), "sgd": optimizers[0].state_dict()}
    )
    steps(net, made, optimizers, 3, 6)

    again, restored = ready(method, 2, 3, False)
    resumed = optimizers_of(again, restored)
    again.module.load_state_dict(saved["net"])
    restored.load_state_dict(saved["method"])
    resumed[0].load_state_dict(saved["sgd"])
    steps(again, restored, resumed, 3, 6)
    for first, second in ((net.module, again.module), (made, restored)):
        for mine, theirs in zip(tensors(dict(first.state_dict())), tensors(dict(second.state_dict())), strict=True):
            assert torch.equal(mine, theirs)


@ALL
def test_a_compiled_student_gives_the_same_losses(method, monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    terms, weights = [], []
    for compiled in (False, True):
        net, made = ready(method, 2, 3, False, compiled=compiled, **quiet(method))
        weights.append(list(net.module.state_dict()))
        terms.append(made.losses(net, *batches(2, 3, False), LATE))
        sum(terms[-1].values()).backward()
    assert terms[0].keys() == terms[1].keys() and weights[0] == weights[1]
    for name, term in terms[0].items():
        msg = partial("{}: {} Or quiet, in the tests of facts.yaml, leaves randomness.".format, name)
        torch.testing.assert_close(terms[1][name], term, msg=msg)
    assert gradients(net)


def plain_architecture(dimensions, channels, seed=0):
    """A network of another kind: one output, neither encoder nor decoder."""

    def build():
        torch.manual_seed(seed)
        return torch.nn.Sequential(
            torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.LeakyReLU(), torch.nn.Conv2d(8, channels, 1)
        )

    return replace(tiny_architecture(dimensions, channels), own=build)


def residual_architecture(dimensions, channels, seed=0):
    """A U-Net with a residual encoder, as nnU-Net's ResEnc plans have."""
    return tiny_architecture(dimensions, channels, seed).of_another_form()


def check_losses(net, made, labeled, unlabeled):
    terms = made.losses(net, labeled, unlabeled, LATE)
    sum(terms.values()).backward()
    made.after_step(net, LATE)
    assert all(torch.isfinite(term) for term in terms.values())
    assert all(torch.isfinite(gradient).all() for gradient in gradients(net).values())


@ALL
def test_works_on_a_residual_encoder(method):
    check_losses(*ready(method, 2, 3, False, architecture=residual_architecture), *batches(2, 3, False))


@ALL
def test_works_on_a_network_with_one_output_or_refuses_it_at_set_up(method):
    if UNET in facts_of(method).needs:
        with pytest.raises(NotImplementedError, match=REFUSALS[UNET]):
            ready(method, 2, 3, False, architecture=plain_architecture)
    else:
        labeled, unlabeled = batches(2, 3, False)
        net, made = ready(method, 2, 3, False, architecture=plain_architecture)
        made.supervised = Supervised(nnunet_loss(False).loss, deep_supervision=False)
        made.task = task(2, 3, scale_weights=(1.0,))
        one, pseudo = (next(batch.target.by_scale()) for batch in (labeled, unlabeled))
        check_losses(net, made, replace(labeled, target=one), replace(unlabeled, target=pseudo))


@ALL
def test_the_network_of_the_facts_predicts(method):
    net, made = ready(method, 2, 3, False)
    predicting, said = made.deployed(net), facts_of(method).predicts
    networks = {
        "mean of both": lambda: [net.module, made.twin] == list(predicting.children()),
        "teacher": lambda: made.teacher.module is predicting,
        "first network": lambda: net.module is predicting and hasattr(made, "twin"),
        "student": lambda: net.module is predicting and not hasattr(made, "twin"),
    }
    assert networks[said](), f"facts.yaml: predicts is {said!r}, but a {type(predicting).__name__} of another kind does"


@ALL
def test_the_facts_name_hyperparameters_that_the_method_has(method):
    tests = facts_of(method).tests
    assert (tests.silent or {}).keys() | tests.quiet.keys() | tests.tiny.keys() <= method.hyperparameters().keys()


@ALL
def test_has_a_docstring_and_a_published_preset(method):
    assert "published" in method.presets
    for preset in method.presets:
        chosen, values = method.of_preset(preset)
        chosen(**values)
    module = inspect.getmodule(method).__doc__
    assert any(year in module for year in map(str, range(2005, 2027)))
    for name in method.hyperparameters():
        assert f"{name}:" in "".join(parent.__doc__ or "" for parent in method.__mro__)
