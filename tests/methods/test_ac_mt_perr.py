"""AC-MT by probable errors: what prototypes say against the student."""

import math

import pytest
import torch
from workbench import kind, tiny_network
from workbench import output as output_of

from nnunet_ssl.method import Now
from nnunet_ssl.methods.ac_mt_perr import ACMT_PErr, questions
from nnunet_ssl.networks.net import Net

NOW = Now(0, 0, 0.0)
FOREGROUND = torch.tensor([0.9, 0.6, 0.2, 0.1])
FEATURES = torch.tensor([[[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 2.0]]])
IMAGE = torch.zeros(1, 1, 4)


def logits_of(foreground, regions=False):
    """(1, 2, voxels), or of one region."""
    p = torch.as_tensor(foreground)
    return p.logit()[None, None] if regions else torch.stack((1 - p, p)).log()[None]


class Toy(ACMT_PErr):
    """Features and deviations are given; the teacher's clean and noisy prediction is that of the toy."""

    def __init__(self, std, teacher=FOREGROUND, features=FEATURES, regions=False, **values):
        super().__init__(**values)
        self.given = features, std
        self.teacher = lambda image: output_of(logits_of(teacher, regions), regions)

    def stochastic_passes(self, image):
        return self.given


def ambiguous(student, std=0.0, regions=False, **values):
    method = Toy(torch.as_tensor(std), regions=regions, **values)
    return method.ambiguous(output_of(logits_of(student, regions), regions), IMAGE, NOW).flatten().tolist()


@pytest.mark.parametrize("regions", [False, True])
def test_voxels_are_ambiguous_where_student_and_prototypes_differ(regions):
    assert ambiguous([0.8, 0.8, 0.3, 0.3], regions=regions) == [False] * 4
    assert ambiguous([0.8, 0.3, 0.7, 0.3], regions=regions) == [False, True, True, False]


def test_uncertain_classes_do_not_label():
    """Where both are uncertain a voxel is background, and its features enter the background's prototype."""
    everywhere = torch.ones(1, 2, 4)
    assert ambiguous([0.8, 0.8, 0.3, 0.3], everywhere) == [True, True, False, False]  # there is no other class
    first_object = torch.zeros(1, 2, 4)
    first_object[0, 1, 1] = 0.1  # the threshold itself is uncertain
    method = Toy(first_object)
    k = method.teacher(IMAGE).probs
    y = kind(2).hard(kind(2).logits_of((first_object < method.uncertain) * k))
    assert y.tolist() == [[1, 0, 0, 0]]


def test_the_rest_is_to_become_sure():
    """L_con = masked squared error + mean over all voxels of the entropy of those that are not ambiguous."""
    student = torch.tensor([0.8, 0.3, 0.7, 0.3])
    loss = Toy(torch.tensor(0.0), noise=0.0).consistency(output_of(logits_of(student)), IMAGE, NOW)
    error = (0.3**2 + 0.5**2) / 2  # of voxels 1 and 2; both classes differ alike
    entropy = [-(p * math.log(p + 1e-6) + (1 - p) * math.log(1 - p + 1e-6)) / math.log(2) for p in (0.8, 0.3)]
    assert loss.item() == pytest.approx(error + sum(entropy) / 4, abs=1e-6)


@pytest.mark.parametrize(("patches", "classes"), [(1, 2), (3, 2), (2, 5)])
def test_the_entropy_is_masked_voxel_by_voxel(patches, classes):
    student = output_of(torch.randn(patches, classes, 6))
    mask = torch.zeros(patches, 1, 6, dtype=torch.bool)
    mask[0, 0, :4] = True
    entropy = student.kind.entropy(student.probs) / math.log(classes)
    expected = (entropy.sum() - entropy[0, 0, :4].sum()) / (6 * patches)
    torch.testing.assert_close(ACMT_PErr().elsewhere(student, mask), expected)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_features_and_deviations_are_those_of_the_teachers_passes(dimensions):
    net = Net(tiny_network(dimensions, 3), kind(3))
    method = ACMT_PErr(passes=4)
    method.setup(net, None)
    image = torch.randn(2, 1, *[16] * dimensions)
    said, seen, forward = [], [], method.teacher.forward
    stage = method.teacher.module.decoder.stages[-2]
    stage.register_forward_hook(lambda module, arguments, out: seen.append(out))
    method.teacher.forward = lambda image: said.append(forward(image)) or said[-1]
    h, s = method.stochastic_passes(image)
    assert len(said) == len(seen) == 4 and seen[0].shape == (2, 6, *[8] * dimensions)
    expected = torch.stack([(output.logits / 2).sigmoid() for output in said]).std(0)
    assert expected.max() > 0.001
    torch.testing.assert_close(s, expected, atol=5e-4, rtol=0)
    assert h.shape == (2, 6, *[16] * dimensions)
    mean = torch.stack(seen).mean(0)
    inner = (slice(None), slice(None), *[slice(1, -1, 2)] * dimensions)  # linear between two voxels along each axis
    torch.testing.assert_close(h.mean((0, 1)).mean(), mean.mean((0, 1)).mean())
    weights = torch.tensor([0.75, 0.25])
    for axis in range(dimensions):
        first, second = mean.narrow(axis + 2, 0, 7), mean.narrow(axis + 2, 1, 7)
        mean = weights[0] * first + weights[1] * second
    torch.testing.assert_close(h[inner], mean)
    assert not stage._forward_pre_hooks and len(stage._forward_hooks) == 1  # nothing stays but the hook of this test


def test_questions_of_classes_and_of_regions():
    labels, probs = torch.tensor([[2, 0]]), torch.rand(1, 3, 2)
    ((said, answers),) = questions(kind(3), labels, probs)
    assert torch.equal(said, labels) and torch.equal(answers, probs)
    labels, probs = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]), torch.rand(1, 2, 2)
    first, second = questions(kind(2, True), labels, probs)
    assert first[0].tolist() == [[0, 1]] and second[0].tolist() == [[1, 1]]  # 0 is inside
    for region, (_, answers) in enumerate((first, second)):
        torch.testing.assert_close(answers, torch.stack((probs[:, region], 1 - probs[:, region]), 1))


@pytest.mark.parametrize("wrong", [{"passes": 1}, {"dropout": 1.0}, {"uncertain": -0.1}, {"weight": -1.0}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ACMT_PErr(**wrong)
