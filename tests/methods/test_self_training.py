"""Self-training: when rounds begin, what they start from, and what the pseudo-labels add."""

import pytest
import torch
from torch.nn import functional as F
from workbench import target

from nnunet_ssl.method import Labeled, Now, Unlabeled
from nnunet_ssl.methods.self_training import SelfTraining

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


def test_each_round_starts_from_the_first_weights(tiny_net):
    net, method = tiny_net(2, 3), SelfTraining(rounds=2)
    method.setup(net, None)
    first = weights(net.module)
    for phase in (1, 2):
        with torch.no_grad():
            for parameter in net.module.parameters():
                parameter.fill_(phase)
        method.begin_phase(net, phase)
        assert torch.equal(weights(net.module), first)
    assert method.deployed(net) is net.module
    assert not any(parameter.requires_grad for parameter in method.parameters())


def test_terms_before_and_in_a_round(tiny_net):
    net, method = tiny_net(2, 3), SelfTraining(weight=2.0)
    method.setup(net, None)
    method.supervised = lambda output, target: F.cross_entropy(output.logits, target.labels)
    image, strong = torch.randn(2, 2, 1, 16, 16)
    truth, pseudo = (target(labels, 3) for labels in torch.randint(0, 3, (2, 2, 1, 16, 16)))
    labeled = Labeled(image, truth)
    alone = method.losses(net, labeled, Unlabeled(), ALONE)
    assert set(alone) == {"supervised"}
    terms = method.losses(net, labeled, Unlabeled(strong=strong, target=pseudo), TAUGHT)
    torch.testing.assert_close(terms["supervised"], alone["supervised"])
    expected = F.cross_entropy(net.predict(strong).logits, pseudo.labels)
    torch.testing.assert_close(terms["pseudo"].detach(), 2 * expected)
