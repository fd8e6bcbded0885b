"""AC-MT by entropy and by several passes, against the numbers of the published code's formulas."""

from types import SimpleNamespace

import pytest
import torch
from workbench import kind
from workbench import output as output_of

from nnunet_ssl.method import Now
from nnunet_ssl.methods.ac_mt import ACMT, ACMT_MU
from nnunet_ssl.networks.net import Net
from nnunet_ssl.schedules import ema_decay

STUDENT = [(0.5, 0.5), (0.7, 0.3), (0.9, 0.1), (0.6, 0.4)]
TEACHER = [(0.4, 0.6), (0.9, 0.1), (0.8, 0.2), (0.5, 0.5)]


def voxels(*distributions) -> torch.Tensor:
    """Logits whose softmax is the given distribution at each voxel, (1, C, voxels)."""
    return torch.tensor(distributions).T[None].log()


def at(step: int, of: int = 8000) -> Now:
    return Now(step, 0, step / of)


def consistency(student, teacher, now, method=None):
    """The term, the share of ambiguous voxels, and the gradient of the student's logits."""
    method = method or ACMT()
    method.teacher = lambda image: output_of(voxels(*teacher))
    logits = voxels(*student).requires_grad_()
    loss = method.consistency(output_of(logits), torch.zeros(1), now)
    loss.backward()
    return loss.item(), method.report["ambiguous_voxels"].item(), logits.grad


def test_entropy_as_a_share_of_the_largest():
    entropy = kind(2).entropy(voxels(*STUDENT).exp()) / kind(2).max_entropy
    assert entropy.flatten().tolist() == pytest.approx([0.999997, 0.881288, 0.468993, 0.970948], abs=1e-6)


def test_only_ambiguous_voxels_count():
    loss, share, gradient = consistency(STUDENT, TEACHER, at(0))
    assert loss == pytest.approx(0.02, abs=1e-7)
    assert share == 0.75
    assert [bool(voxel.any()) for voxel in gradient[0].T] == [True, True, False, True]
    everywhere = consistency(STUDENT, TEACHER, at(0), ACMT(threshold_start=0.0, threshold_end=0.0))
    assert everywhere[:2] == (pytest.approx(0.0175, abs=1e-7), 1)


def threshold(method, now, classes=2, regions=False):
    """The smallest share of the largest entropy that is ambiguous, by bisection of the probabilities."""
    low, high = 0.5, 1.0  # how sure the student is
    for _ in range(60):
        sure = (low + high) / 2
        p = torch.tensor([[sure, *[(1 - sure) / (classes - 1)] * (classes - 1)]], dtype=torch.float64)[..., None]
        p = p[:, :1] if regions else p
        asked = SimpleNamespace(probs=p, kind=kind(p.shape[1], regions))
        low, high = (sure, high) if method.ambiguous(asked, torch.zeros(1), now).item() else (low, sure)
    found = kind(classes).entropy(torch.tensor([[low, *[(1 - low) / (classes - 1)] * (classes - 1)]])[..., None])
    return found.item() / kind(classes).max_entropy


@pytest.mark.parametrize(("step", "tau"), [(0, 0.751348), (4000, 0.807301), (8000, 0.95)])
def test_the_threshold_rises(step, tau):
    assert threshold(ACMT(), at(step)) == pytest.approx(tau, abs=1e-5)
    assert threshold(ACMT(), at(step), regions=True) == pytest.approx(tau, abs=1e-5)


def test_the_threshold_is_a_share_of_the_entropy_of_all_classes():
    assert threshold(ACMT(), at(0), classes=3) == pytest.approx(0.751348, abs=1e-5)


def test_an_earlier_threshold_that_falls_is_a_value_of_its_end():
    assert threshold(ACMT(threshold_end=0.6), at(8000)) == pytest.approx(0.6, abs=1e-5)


def test_no_ambiguous_voxel_is_zero_with_zero_gradient():
    loss, share, gradient = consistency([(0.99, 0.01)], [(0.1, 0.9)], at(0))
    assert (loss, share) == (0, 0)
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize(("step", "alpha"), [(0, 0.0), (1, 0.5), (9, 0.9), (98, 0.989899), (99, 0.99), (100, 0.99)])
def test_decay_of_the_teacher(step, alpha, tiny_net):
    assert ema_decay(step, ACMT().ema_decay) == pytest.approx(alpha, abs=1e-6)
    net, method = tiny_net(), ACMT()
    method.setup(net, None)
    with torch.no_grad():
        for theirs, mine in zip(net.module.parameters(), method.teacher.parameters(), strict=True):
            theirs.fill_(1.0)
            mine.fill_(0.0)
    method.after_step(net, at(step))
    assert next(method.teacher.parameters()).flatten()[0].item() == pytest.approx(1 - alpha, abs=1e-6)


def test_the_weight_is_full_after_three_quarters_of_training():
    assert ACMT().ramped_weight(at(0)) == pytest.approx(0.1 * 0.00673795)
    assert ACMT().ramped_weight(at(5999)) < ACMT().ramped_weight(at(6000)) == 0.1
    assert ACMT(**ACMT.presets["published"]).ramped_weight(at(8000)) == 0.2


def test_the_mask_has_no_gradient_and_the_student_has_one():
    logits = voxels(*STUDENT).requires_grad_()
    student, found = output_of(logits), []
    method = ACMT(noise=0.0)
    method.teacher = lambda image: output_of(voxels(*TEACHER))
    ambiguous = method.ambiguous
    method.ambiguous = lambda *arguments: found.append(ambiguous(*arguments)) or found[-1]
    assert method.consistency(student, torch.zeros(1), at(0)).requires_grad
    assert found[0].dtype == torch.bool and not found[0].requires_grad


# ---------------------------------------------------------------------- several passes


class Given(ACMT_MU):
    """The mean prediction is given."""

    def distribution(self, student, image):
        return student.probs


@pytest.mark.parametrize(("step", "limit"), [(0, 0.520561), (8000, 0.623832)])
def test_the_threshold_of_several_passes(step, limit):
    assert threshold(Given(), at(step)) * kind(2).max_entropy == pytest.approx(limit, abs=1e-5)


class Says(torch.nn.Module):
    """A network without weights that says one thing after the other."""

    def __init__(self, *said):
        super().__init__()
        self.said = list(said)

    def forward(self, image):
        return [self.said.pop(0)]


def test_the_mean_of_the_students_passes_comes_before_the_entropy(monkeypatch):
    monkeypatch.setattr("nnunet_ssl.networks.dropout.channel_dropout", lambda network, p: torch.no_grad())
    method = ACMT_MU(passes=2)
    method.net = Net(Says(voxels((0.9, 0.1)), voxels((0.5, 0.5))), kind(2))
    mean = method.distribution(output_of(voxels((0.2, 0.8))), torch.zeros(1))
    torch.testing.assert_close(mean, torch.tensor([[[0.7], [0.3]]]))


def test_the_students_passes_have_noise_and_dropout_and_leave_no_trace(tiny_net):
    net = tiny_net(3, 2)
    image = torch.randn(1, 1, 16, 16, 16)
    before = net(image).logits
    for values in ({"noise": 0.0, "passes": 1}, {"dropout": 0.0, "passes": 1}):
        method = ACMT_MU(**values)
        method.setup(net, None)
        first, second = (method.distribution(net(image), image) for _ in range(2))
        assert not torch.equal(first, second) and not first.requires_grad
    assert torch.equal(net(image).logits, before) and net.module.training


def test_hyperparameters_that_are_added_to_mean_teacher():
    mean_teacher = set(ACMT.__mro__[2].hyperparameters())
    assert set(ACMT.hyperparameters()) - mean_teacher == {"threshold_start", "threshold_end"}
    assert set(ACMT_MU.hyperparameters()) - set(ACMT.hyperparameters()) == {"passes", "dropout"}
    assert ACMT_MU.hyperparameters()["threshold_end"] == 0.9


@pytest.mark.parametrize("wrong", [{"passes": 0}, {"dropout": 1.0}, {"threshold_end": 1.1}, {"threshold_start": -0.1}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ACMT_MU(**wrong)
