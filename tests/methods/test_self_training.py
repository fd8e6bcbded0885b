"""Self-training: who teaches whom and when, and pseudo-labels in the form of nnU-Net's targets."""

import pytest
import torch
from workbench import task

from nnunet_ssl.method import Labeled, Now, Unlabeled
from nnunet_ssl.methods.self_training import SelfTraining
from nnunet_ssl.networks.net import Output

ALONE, TAUGHT = Now(0, 0, 0.0, phase=0), Now(0, 9, 0.9, phase=1)


def weights(module):
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


@pytest.mark.parametrize(
    ("arguments", "phases"),
    [({}, (0.5,)), ({"rounds": 2}, (0.5, 0.75)), ({"rounds": 3, "first_round": 0.4}, (0.4, 0.6, 0.8))],
)
def test_rounds_share_what_is_left_of_training(arguments, phases):
    assert SelfTraining(**arguments).phases == pytest.approx(phases)


@pytest.mark.parametrize("arguments", [{"rounds": 0}, {"first_round": 0.0}, {"first_round": 1.0}, {"weight": -1.0}])
def test_values_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match="out of range"):
        SelfTraining(**arguments)


def test_a_round_hands_the_student_over_and_starts_it_anew(tiny_net):
    net, method = tiny_net(2, 3), SelfTraining(rounds=2)
    method.setup(net, None)
    first = weights(net.module)
    for phase, value in ((1, 0.25), (2, 0.5)):
        with torch.no_grad():
            for parameter in net.module.parameters():
                parameter.fill_(value)
        method.begin_phase(net, phase)
        assert torch.equal(weights(net.module), first)
        assert (weights(method.teacher) == value).all()
        method.after_step(net, TAUGHT)
        assert (weights(method.teacher) == value).all()  # frozen
    assert method.deployed(net) is net.module
    assert not any(parameter.requires_grad for parameter in method.parameters())


def test_terms_before_and_in_a_round(tiny_net):
    """On two views of one patch: the loss of the strong view's logits with the teacher's labels of the weak view."""
    net, method = tiny_net(2, 3), SelfTraining(weight=2.0)
    method.setup(net, None)
    method.task = task(2, 3)
    method.supervised = lambda output, target: torch.nn.functional.cross_entropy(output.logits, target[0][:, 0].long())
    image, weak, strong = torch.randn(3, 2, 1, 16, 16)
    target = [torch.randint(0, 3, (2, 1, 16, 16)).float(), torch.zeros(2, 1, 8, 8)]
    labeled, unlabeled = Labeled(image, target), Unlabeled(weak, strong)
    assert set(method.losses(net, labeled, unlabeled, ALONE)) == {"supervised"}
    terms = method.losses(net, labeled, unlabeled, TAUGHT)
    labels = net.predict(weak).logits.argmax(1)
    expected = torch.nn.functional.cross_entropy(net.predict(strong).logits, labels)
    assert len(labels.unique()) > 1
    torch.testing.assert_close(terms["pseudo"].detach(), 2 * expected)
    torch.testing.assert_close(terms["supervised"], method.losses(net, labeled, unlabeled, ALONE)["supervised"])


def test_pseudo_labels_of_classes_stand_at_all_scales():
    method = SelfTraining()
    method.task = task(2, 3)
    values = torch.tensor([[0, 0, 2, 2], [0, 0, 2, 2], [1, 1, 0, 0], [1, 1, 0, 0]])
    logits = torch.nn.functional.one_hot(values, 3).permute(2, 0, 1)[None].float()
    like = [torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 2, 2)]
    full, half = method.target_of(Output([logits], False), like)
    assert torch.equal(full, values[None, None].float())
    assert torch.equal(half, torch.tensor([[[[0.0, 2.0], [1.0, 0.0]]]]))
    assert torch.equal(method.target_of(Output([logits], False), like[0]), full)


@pytest.mark.parametrize("ignore", [None, 3])
def test_pseudo_labels_of_regions_ignore_nothing(ignore):
    method = SelfTraining()
    method.task = task(2, 2, regions=True, ignore_label=ignore)
    logits = torch.tensor([[[[1.0, -1.0]], [[2.0, 3.0]]]])  # (1, 2, 1, 2)
    found = method.target_of(Output([logits], True), torch.zeros(1, 2, 1, 2))
    expected = torch.tensor([[[[1.0, 0.0]], [[1.0, 1.0]]]])
    assert torch.equal(found[:, :2], expected)
    assert found.shape[1] == (2 if ignore is None else 3)
    assert not found[:, 2:].any()
