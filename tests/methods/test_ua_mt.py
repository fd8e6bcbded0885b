"""UA-MT against the numbers of its paper's formulas."""

import pytest
import torch
from workbench import output as output_of

from nnunet_ssl.method import Now
from nnunet_ssl.methods.ua_mt import UAMT


def voxels(*distributions) -> torch.Tensor:
    """Logits whose softmax is the given distribution at each voxel, (1, C, voxels)."""
    return torch.tensor(distributions).T[None].log()


class Stub(UAMT):
    """The teacher's target and mean prediction are given."""

    def __init__(self, target, mean):
        super().__init__()
        self.teacher = lambda image: output_of(target)
        self.mean = mean

    def mean_prediction(self, image):
        return self.mean


def consistency(target, mean, student, fraction):
    method = Stub(voxels(*target), torch.tensor(mean).T[None])
    student = voxels(*student).requires_grad_()
    loss = method.consistency(output_of(student), torch.zeros(1), Now(0, 0, fraction))
    loss.backward()
    return loss.item(), method.report["certain_voxels"].item(), student.grad


@pytest.mark.parametrize(("fraction", "expected", "share"), [(0.0, 0.01, 0.5), (1.0, 0.05, 1.0)])
def test_the_mask_opens_during_training(fraction, expected, share):
    teacher = [(0.9, 0.1), (0.6, 0.4)]
    loss, certain, _ = consistency(teacher, teacher, [(0.8, 0.2), (0.3, 0.7)], fraction)
    assert loss == pytest.approx(expected, abs=1e-6)
    assert certain == share


@pytest.mark.parametrize(
    ("classes", "fraction", "limit"),
    [
        (2, 0.0, 0.521028),
        (2, 0.5, 0.569508),
        (2, 1.0, 0.693147),
        (4, 0.0, 1.042056),
        (4, 0.5, 1.139016),
        (4, 1.0, 1.386294),
    ],
)
def test_the_threshold_grows_to_the_largest_entropy(classes, fraction, limit):
    """A voxel just below the threshold counts, one just above does not."""
    share = torch.linspace(0.9999, 1.0 / classes, 200001, dtype=torch.float64)
    rest = (1 - share) / (classes - 1)
    entropy = -(share * share.log() + (classes - 1) * rest * rest.log())
    for level, inside in ((limit - 2e-3, 1.0), (limit + 2e-3, 0.0)):
        if level > entropy.max():
            continue
        index = (entropy - level).abs().argmin()
        voxel = [(share[index].item(), *[rest[index].item()] * (classes - 1))]
        assert consistency(voxel, voxel, voxel, fraction)[1] == inside


def test_four_classes_are_divided_by_four():
    teacher = [(0.4, 0.2, 0.2, 0.2)]
    loss, certain, _ = consistency(teacher, teacher, [(0.7, 0.1, 0.1, 0.1)], 1.0)
    assert certain == 1
    assert loss == pytest.approx(0.03, abs=1e-6)


def test_an_empty_mask_is_zero_with_zero_gradient():
    teacher = [(0.6, 0.4)]
    loss, certain, gradient = consistency(teacher, teacher, [(0.1, 0.9)], 0.0)
    assert (loss, certain) == (0, 0)
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_the_mean_comes_before_the_entropy():
    method = UAMT(passes=2, noise=0.0)
    passes = iter([voxels((0.9, 0.1)), voxels((0.5, 0.5))])
    method.teacher = lambda image: output_of(next(passes))
    method.teacher.module = torch.nn.Module()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nnunet_ssl.networks.dropout.channel_dropout", lambda network, p: torch.no_grad())
        mean = method.mean_prediction(torch.zeros(1))
    torch.testing.assert_close(mean, torch.tensor([[[0.7], [0.3]]]))


def test_samples_of_a_batch_stay_apart_in_the_mean(tiny_net):
    net, method = tiny_net(2, 3), UAMT(noise=0.0, dropout=0.0)
    method.setup(net, None)
    images = torch.randn(2, 1, 16, 16)
    together = method.mean_prediction(images)
    torch.testing.assert_close(together[:1], method.mean_prediction(images[:1]))
    assert not torch.allclose(together[0], together[1])


def test_stochastic_passes_vary_also_without_noise(tiny_net):
    method = UAMT(passes=1, noise=0.0)
    method.setup(tiny_net(3, 2), None)
    image = torch.randn(1, 1, 16, 16, 16)
    assert not torch.equal(method.mean_prediction(image), method.mean_prediction(image))
    assert torch.equal(method.teacher(image).probs, method.teacher(image).probs)


def test_adds_only_two_hyperparameters_to_mean_teacher():
    added = set(UAMT.hyperparameters()) - set(UAMT.__mro__[1].hyperparameters())
    assert added == {"passes", "dropout"}


@pytest.mark.parametrize("wrong", [{"passes": 0}, {"dropout": 1.0}, {"weight": -0.1}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        UAMT(**wrong)
