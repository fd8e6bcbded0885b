"""MC-Net and MC-Net+ against their closed forms."""

import pytest
import torch
from workbench import kind, task, tiny_architecture, tiny_network
from workbench import output as output_of

from nnunet_ssl.method import Labeled, Now, Unlabeled
from nnunet_ssl.methods.mc_net import MCNet, MCNetPlus
from nnunet_ssl.networks.net import Net, Output

END = Now(step=9, epoch=9, fraction=0.9)


def output(*voxels) -> Output:
    """Class probabilities of voxels along the last axis."""
    p = torch.tensor(voxels).T.reshape(1, len(voxels[0]), 1, len(voxels))
    return output_of(p.log().requires_grad_())


A, B, C = ([0.6, 0.4], [0.7, 0.3]), ([0.5, 0.5], [0.9, 0.1]), ([0.4, 0.6], [0.8, 0.2])


def test_consistency_of_two_and_of_three_decoders():
    a, b, c = output(*A), output(*B), output(*C)
    assert MCNet().consistency([a, b]).item() == pytest.approx(0.171601, abs=1e-6)
    assert MCNet().consistency([a, b, c]).item() == pytest.approx(0.723017, abs=1e-6)
    assert MCNet().consistency([c, a, b]).item() == pytest.approx(0.723017, abs=1e-6)


@pytest.mark.parametrize(("detach", "gradient"), [(False, -5.130274), (True, -1.065908)])
def test_the_gradient_runs_through_the_sharpened_prediction(detach, gradient):
    """Of one region: d/dp at p = 0.45 against 0.6, from the derivative by the logit."""
    p = 0.45
    first = output_of(torch.logit(torch.tensor(p)).view(1, 1, 1, 1).requires_grad_(), True)
    second = output_of(torch.logit(torch.tensor(0.6)).view(1, 1, 1, 1), True)
    MCNet(detach_targets=detach).consistency([first, second]).backward()
    assert first.logits.grad.item() / (p * (1 - p)) == pytest.approx(gradient, abs=2e-5)


def test_equal_decoders_agree_where_they_are_certain_or_tied_alone():
    certain = output([1 - 1e-9, 1e-9], [0.5, 0.5])
    assert MCNet().consistency([certain, certain]).item() == pytest.approx(0, abs=1e-9)
    unsure = output([0.7, 0.3])
    assert MCNet().consistency([unsure, unsure]).item() > 0.01


def ready(method, dimensions=2, channels=3):
    net = Net(tiny_network(dimensions, channels), kind(channels))
    method.supervised = lambda output, target: torch.stack([scale.square().mean() for scale in output.pyramid]).sum()
    method.task = task(dimensions, channels)
    method.setup(net, tiny_architecture(dimensions, channels))
    return net, method


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("kind", [MCNet, MCNetPlus])
def test_one_encoder_pass_serves_all_decoders_and_labels_train_all_of_them(kind, dimensions):
    net, method = ready(kind(weight=0.0), dimensions)
    passes = []
    net.module.encoder.register_forward_hook(lambda *_: passes.append(1))
    image = torch.randn(2, 1, *[16] * dimensions)
    terms = method.losses(net, Labeled(image, None), Unlabeled(torch.randn_like(image)), END)
    assert len(passes) == 1 and terms["consistency"] == 0
    terms["supervised"].backward()
    assert all(parameter.grad is not None for parameter in [*method.parameters(), *net.module.parameters()])
    assert len(method.decoders) == len(kind.ways_up)


def test_the_plans_own_network_predicts():
    net, method = ready(MCNetPlus())
    assert method.deployed(net) is net.module
    tiny_network(2, 3, seed=4).load_state_dict(net.module.state_dict())


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"supervised_weight": -1.0}, {"rampup": 2.0}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MCNet(**wrong)
