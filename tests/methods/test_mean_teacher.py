"""Mean Teacher against its closed forms."""

import pytest
import torch
from workbench import output as output_of

from nnunet_ssl.method import Labeled, Now, Unlabeled
from nnunet_ssl.methods.mean_teacher import MeanTeacher

START = Now(0, 0, 0.0)


def logits(*values) -> torch.Tensor:
    return torch.tensor(values).view(1, -1, 1, 1)


def test_consistency_and_its_gradient():
    method = MeanTeacher()
    target = logits(0.0, 0.0).requires_grad_()
    method.teacher = lambda image: output_of(target.detach())
    student = logits(2.0, 0.0).requires_grad_()
    loss = method.consistency(output_of(student), torch.zeros(1, 1, 1, 1), START)
    loss.backward()
    assert loss.item() == pytest.approx(0.145006, abs=1e-6)
    torch.testing.assert_close(student.grad.flatten(), torch.tensor([0.079963, -0.079963]), atol=1e-6, rtol=0)
    assert target.grad is None


def test_regions_use_the_sigmoid():
    method = MeanTeacher()
    method.teacher = lambda image: output_of(logits(0.0, 0.0), True)
    loss = method.consistency(output_of(logits(2.0, 0.0), True), torch.zeros(1, 1, 1, 1), START)
    assert loss.item() == pytest.approx((0.880797 - 0.5) ** 2 / 2, abs=1e-6)


def test_noise_is_clipped_normal():
    torch.manual_seed(0)
    image = torch.full((1, 1, 1000, 1000), 3.0)
    noise = MeanTeacher().noisy(image) - image
    assert noise.abs().max() <= 0.2 + 1e-6
    assert noise.std().item() == pytest.approx(0.095945, abs=2e-4)
    assert (noise.abs() > 0.2 - 1e-6).float().mean().item() == pytest.approx(0.0455, abs=1e-3)
    assert torch.equal(image, torch.full_like(image, 3.0))


@pytest.mark.parametrize(("fraction", "weight"), [(0.0, 0.00067379), (0.5, 0.02865048), (1.0, 0.1)])
def test_weight_of_the_ramp_up(tiny_net, fraction, weight):
    net, method = tiny_net(), MeanTeacher()
    method.setup(net, None)
    method.supervised = lambda output, target: output.logits.sum() * 0
    image = torch.randn(2, 1, 16, 16)
    terms = method.losses(net, Labeled(image, None), Unlabeled(weak=image), Now(0, 0, fraction))
    assert method.report["unsupervised_weight"] == pytest.approx(weight, abs=5e-9)
    assert set(terms) == {"supervised", "consistency"}


def test_an_equal_teacher_without_noise_adds_nothing(tiny_net):
    net, method = tiny_net(3, 2), MeanTeacher(noise=0.0)
    method.setup(net, None)
    method.supervised = lambda output, target: (output.logits - target).square().mean()
    labeled, unlabeled = torch.randn(2, 1, 16, 16, 16), torch.randn(2, 1, 16, 16, 16)
    target = torch.randn(2, 2, 16, 16, 16)
    terms = method.losses(net, Labeled(labeled, target), Unlabeled(weak=unlabeled), Now(5, 0, 1.0))
    assert terms["consistency"].item() == 0
    sum(terms.values()).backward()
    total = [parameter.grad.clone() for parameter in net.module.parameters() if parameter.grad is not None]
    net.module.zero_grad()
    method.supervised(net(labeled), target).backward()
    alone = [parameter.grad for parameter in net.module.parameters() if parameter.grad is not None]
    for with_teacher, without in zip(total, alone, strict=True):
        torch.testing.assert_close(with_teacher, without, atol=1e-6, rtol=1e-4)


def test_labeled_patches_do_not_change_the_consistency(tiny_net):
    net, method = tiny_net(), MeanTeacher(noise=0.0, weight=1.0)
    method.setup(tiny_net(seed=1), None)
    method.supervised = lambda output, target: output.logits.mean()
    unlabeled = Unlabeled(weak=torch.randn(2, 1, 16, 16))
    values = [
        method.losses(net, Labeled(torch.randn(2, 1, 16, 16), None), unlabeled, Now(0, 0, 1.0))["consistency"].item()
        for _ in range(2)
    ]
    assert values[0] > 0
    assert values[0] == pytest.approx(values[1], rel=1e-5)


def test_deploys_the_student_or_on_request_the_teacher(tiny_net):
    net = tiny_net()
    for deploy_teacher in (False, True):
        method = MeanTeacher(deploy_teacher=deploy_teacher)
        method.setup(net, None)
        assert method.deployed(net) is (method.teacher.module if deploy_teacher else net.module)


@pytest.mark.parametrize("wrong", [{"ema_decay": 1.1}, {"weight": -1.0}, {"rampup": 1.5}, {"noise": float("nan")}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MeanTeacher(**wrong)
