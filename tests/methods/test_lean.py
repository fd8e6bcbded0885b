"""Steps that run patches again on the way back learn the same."""

import pytest
import torch
from battery import THREE_D, facts_of, quiet
from tiny_steps import ALL, LATE, PRESETS, batches, ready, tensors

from nnunet_ssl.method import Method


def learned(method, at_once, arguments):
    """Gradients of a step, by their order in student and method, and the state that it leaves."""
    dimensions = 3 if THREE_D in facts_of(method).needs else 2
    net, made = ready(method, dimensions, 3, False, at_once=at_once, **arguments)
    torch.manual_seed(3)
    sum(made.losses(net, *batches(dimensions, 3, False), LATE).values()).backward()
    made.after_step(net, LATE)
    kept = [] if net.taps is None else [name for name, features in net.taps.kept.items() if features]
    return [p.grad for p in (*net.module.parameters(), *made.parameters())], tensors(dict(made.state_dict())), kept


@ALL
def test_the_gradients_are_those_of_all_patches_at_once(method):
    same(method, quiet(method))


@pytest.mark.parametrize(("method", "arguments"), PRESETS)
def test_also_in_presets(method, arguments):
    same(method, arguments | quiet(method))


def same(method: type[Method], arguments: dict):
    gradients, state, _ = learned(method, None, arguments)
    lean_gradients, lean_state, kept = learned(method, 2, arguments)
    assert [g is None for g in lean_gradients] == [g is None for g in gradients]
    for found, expected in zip(lean_gradients, gradients, strict=True):
        if expected is not None:
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    for found, expected in zip(lean_state, state, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    assert kept == []  # what the way back has made is not held


def test_nothing_of_a_forward_is_kept_but_its_outputs():
    """Of a step of Mean Teacher: voxels of tensors that wait for the way back."""
    from nnunet_ssl.methods.mean_teacher import MeanTeacher

    def kept(at_once):
        net, _ = ready(MeanTeacher, 2, 3, False, at_once=at_once)
        labeled, unlabeled = batches(2, 3, False)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
            net(labeled.image, unlabeled.weak)
        return sum(sizes)

    assert kept(2) < kept(None) / 10
