"""The moving average in closed form, its buffers and its modes."""

import pytest
import torch
from torch import nn
from workbench import kind

from nnunet_ssl.networks.net import Net
from nnunet_ssl.networks.teacher import Teacher


class Scalar(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(float(value)))
        self.register_buffer("running", torch.tensor(float(value)))
        self.register_buffer("count", torch.tensor(int(value)))

    def forward(self, x):
        return x * self.weight


def test_closed_form_over_three_steps_for_parameters_and_buffers():
    student = Scalar(1)
    net = Net(student, kind(2))
    teacher = Teacher(net, 0.99)
    for step, (value, expected) in enumerate([(2, 2.0), (4, 3.0), (8, 4.666667)]):
        with torch.no_grad():
            student.weight.fill_(value)
            student.running.fill_(value)
            student.count.fill_(value)
        teacher.update(net, step)
        assert teacher.module.weight.item() == pytest.approx(expected, abs=1e-6)
        assert teacher.module.running.item() == pytest.approx(expected, abs=1e-6)
        assert teacher.module.count.item() == value


def test_closed_form_at_the_limit():
    net = Net(Scalar(1), kind(2))
    teacher = Teacher(net, 0.9)
    with torch.no_grad():
        net.module.weight.fill_(3)
    for step in range(1000, 1010):
        teacher.update(net, step)
    assert teacher.module.weight.item() == pytest.approx(3 - 2 * 0.9**10, abs=1e-6)


def test_equal_students_leave_the_teacher_equal_bit_for_bit(tiny_net):
    net = tiny_net(3, 2)
    teacher = Teacher(net, 0.99)
    for step in range(7):
        teacher.update(net, step)
    for mine, theirs in zip(teacher.module.state_dict().values(), net.module.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)


def test_no_gradient_no_training_mode_no_shared_storage(tiny_net):
    net = tiny_net()
    teacher = Teacher(net, 0.99)
    teacher.train()
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not teacher(torch.randn(1, 1, 16, 16)).logits.requires_grad
    student = {parameter.data_ptr() for parameter in net.module.parameters()}
    assert student.isdisjoint(parameter.data_ptr() for parameter in teacher.parameters())


def test_state_dict_is_the_resume_state(tiny_net):
    net, other = tiny_net(seed=0), tiny_net(seed=1)
    first, second = Teacher(net, 0.99), Teacher(other, 0.99)
    second.load_state_dict(first.state_dict())
    image = torch.randn(1, 1, 16, 16)
    assert torch.equal(first(image).logits, second(image).logits)


def test_copy_of_a_compiled_student_is_plain(tiny_net):
    plain = tiny_net().network
    teacher = Teacher(Net(torch.compile(plain), kind(2)), 0.99)
    assert list(teacher.module.state_dict()) == list(plain.state_dict())
