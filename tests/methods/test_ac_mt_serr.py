"""Errors among labels by confident learning, and what is said where cleanlab is missing."""

import sys

import numpy as np
import pytest
import torch
from workbench import output as output_of

from nnunet_ssl.errors import InputError
from nnunet_ssl.method import Now
from nnunet_ssl.methods.ac_mt_serr import ACMT_SErr, finder_of_label_issues, label_errors

IMAGE = torch.zeros(1, 1, 4)


def logits_of(foreground, regions=False):
    """(1, 2, voxels), or of one region."""
    p = torch.as_tensor(foreground)
    return p.logit()[None, None] if regions else torch.stack((1 - p, p)).log()[None]


def recorded(calls):
    def find_label_issues(labels, pred_probs, **options):
        calls.append((labels, pred_probs, options))
        return pred_probs.argmax(1) != labels

    return find_label_issues


def test_all_patches_are_one_set_of_rows():
    calls, torch_rng = [], torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (2, 4, 5), generator=torch_rng)
    probs = torch.rand((2, 3, 4, 5), generator=torch_rng).softmax(1)
    found = label_errors(recorded(calls), labels, probs)
    assert found.dtype == torch.bool and torch.equal(found, probs.argmax(1) != labels)
    given, rows, options = calls[0]
    assert given.shape == (40,) and rows.shape == (40, 3) and options == {"filter_by": "both", "n_jobs": 1}
    np.testing.assert_array_equal(rows[27], probs[1, :, 1, 2].numpy())
    assert given[27] == labels[1, 1, 2]


@pytest.mark.parametrize("only", [0, 1])
def test_labels_of_one_class_are_all_in_doubt(only):
    labels = torch.full((1, 4), only)
    assert label_errors(None, labels, torch.full((1, 2, 4), 0.5)).tolist() == [[True] * 4]


def test_a_step_that_overflows_is_not_shown_to_cleanlab():
    assert label_errors(None, torch.tensor([[0, 1]]), torch.full((1, 2, 2), torch.nan)).all()


def test_without_cleanlab_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    monkeypatch.delitem(sys.modules, "cleanlab.filter", raising=False)
    with pytest.raises(InputError) as refused:
        finder_of_label_issues("ACMT_SErr")
    assert str(refused.value) == (
        'ACMT_SErr needs cleanlab, which is not installed: pip install "nnunet-ssl[cleanlab]"'
    )


def test_a_fault_inside_of_cleanlab_is_told_as_it_is(monkeypatch, tmp_path):
    for name in ("cleanlab", "cleanlab.filter"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "cleanlab").mkdir()
    (tmp_path / "cleanlab" / "__init__.py").touch()
    (tmp_path / "cleanlab" / "filter.py").write_text("import pandas_that_is_missing\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="pandas_that_is_missing"):
        finder_of_label_issues("ACMT_SErr")


def test_real_cleanlab_finds_planted_errors():
    """Half of the labels of 200 voxels each are sure and right; 10 of each class are sure and wrong."""
    cleanlab = pytest.importorskip("cleanlab")
    if not hasattr(cleanlab, "__version__"):
        pytest.skip("cleanlab is not installed")
    truth = torch.arange(400)[None] % 2
    probs = torch.where(truth[:, None] == torch.tensor([0, 1])[:, None], 0.95, 0.05)
    labels = truth.clone()
    labels[0, :20] = 1 - labels[0, :20]
    found = label_errors(finder_of_label_issues("a test"), labels, probs)
    assert found.dtype == torch.bool and found.shape == (1, 400)
    assert found[0, :20].all() and not found[0, 20:].any()
    third = torch.cat((probs, torch.full_like(probs[:, :1], 0.0)), 1)  # a class that no label has
    assert torch.equal(label_errors(finder_of_label_issues("a test"), labels, third), found)


def serr(student, teacher, regions=False):
    method = ACMT_SErr(noise=0.0)
    method.teacher = lambda image: output_of(logits_of(teacher, regions), regions)
    method.find_label_issues = lambda labels, probs, **options: probs.argmax(1) != labels
    logits = logits_of(student, regions).requires_grad_()
    loss = method.consistency(output_of(logits, regions), IMAGE, Now(0, 0, 0.0))
    loss.backward()
    return loss.item(), method.report["ambiguous_voxels"].item(), logits.grad


@pytest.mark.parametrize("regions", [False, True])
def test_errors_among_the_students_labels_count(regions):
    loss, share, gradient = serr([0.8, 0.8, 0.3, 0.3], [0.6, 0.4, 0.1, 0.1], regions)
    assert (loss, share) == (pytest.approx(0.16), 0.25)
    assert gradient[0].abs().sum(0).count_nonzero() == 1


def test_all_voxels_count_where_the_student_says_one_class_alone():
    loss, share, _ = serr([0.2, 0.2, 0.3, 0.3], [0.6, 0.2, 0.3, 0.3])
    assert (loss, share) == (pytest.approx(0.04), 1)


def test_training_is_refused_at_set_up_without_cleanlab(monkeypatch, tiny_net):
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    monkeypatch.delitem(sys.modules, "cleanlab.filter", raising=False)
    with pytest.raises(InputError, match="^ACMT_SErr needs cleanlab.*pip install"):
        ACMT_SErr().setup(tiny_net(), None)


def test_each_patch_is_a_set_of_its_own():
    calls, method = [], ACMT_SErr()
    method.find_label_issues = recorded(calls)
    labels, probs = torch.tensor([[0, 1, 1], [2, 2, 2], [0, 1, 0]]), torch.rand(3, 3, 3).softmax(1)
    found = method.errors(labels, probs)
    assert [given.tolist() for given, _, _ in calls] == [[0, 1, 1], [0, 1, 0]]
    assert found[1].all() and torch.equal(found[::2], (probs.argmax(1) != labels)[::2])
