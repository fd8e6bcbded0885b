"""FixMatch against the numbers of its formulas."""

import pytest
import torch
from workbench import Scaled, kind, task
from workbench import output as output_of

from nnunet_ssl.losses.confidence import admitted_cross_entropy
from nnunet_ssl.method import Labeled, Now, Unlabeled
from nnunet_ssl.methods.fixmatch import FixMatch
from nnunet_ssl.networks.net import Net

NOW = Now(step=5, epoch=0, fraction=0.5)


def voxels(*values) -> torch.Tensor:
    """One tuple of channels per voxel as (1, C, voxels)."""
    return torch.tensor(values).T[None]


def made(channels=2, regions=False, **arguments) -> FixMatch:
    method = FixMatch(**arguments)
    method.task = task(channels=channels, regions=regions)
    method.supervised = lambda output, target: output.logits.square().mean()
    return method


def pseudo(weak, strong, **arguments):
    """Labels, mask and loss for distributions of the weak view and logits of the strong view."""
    labels, admitted = made(len(weak[0]), **arguments).pseudo_labels(output_of(voxels(*weak).log()))
    return labels, admitted, admitted_cross_entropy(output_of(voxels(*strong)), labels, admitted)


def test_the_mean_divides_by_all_voxels():
    labels, admitted, loss = pseudo([(0.97, 0.03), (0.90, 0.10)], [(1.0, 0.0), (0.0, 1.0)])
    each = torch.nn.functional.cross_entropy(voxels((1.0, 0.0), (0.0, 1.0)), labels, reduction="none")
    torch.testing.assert_close(each, torch.tensor([[0.313262, 1.313262]]), atol=1e-6, rtol=0)
    assert admitted.tolist() == [[True, False]]
    assert loss.item() == pytest.approx(0.156631, abs=1e-6)


def test_labels_are_the_largest_class_and_the_threshold_itself_passes():
    weak = [(0.5, 0.3, 0.2), (0.1, 0.8, 0.1), (0.1, 0.6, 0.3), (0.2, 0.6, 0.2)]
    method = made(3, threshold=0.5)
    # powers of two are exact, so that 0.5 is met to the bit
    exact = output_of(voxels((1.0, 0.5, 0.5)).log2() * torch.log(torch.tensor(2.0)))
    assert method.pseudo_labels(exact)[1].all()
    labels, admitted, _ = pseudo(weak, weak, threshold=0.5)
    assert labels.tolist() == [[0, 1, 1, 1]]
    assert admitted.all()
    assert not pseudo(weak, weak, threshold=0.85)[1].any()


def test_nothing_confident_gives_no_loss_and_no_gradient():
    method = made()
    labels, admitted = method.pseudo_labels(output_of(voxels((0.94, 0.06), (0.5, 0.5)).log()))
    strong = torch.randn(1, 2, 2, requires_grad=True)
    loss = admitted_cross_entropy(output_of(strong), labels, admitted)
    loss.backward()
    assert loss.item() == 0 and torch.equal(strong.grad, torch.zeros_like(strong))
    assert method.report["admitted"] == 0


def test_equal_views_of_a_confident_network_give_almost_no_loss():
    weak = [(1 - 1e-6, 1e-6), (1e-6, 1 - 1e-6)]
    labels, admitted, loss = pseudo(weak, [(20.0, 0.0), (0.0, 20.0)])
    assert labels.tolist() == [[0, 1]] and admitted.all()
    assert loss.item() < 1e-8


def test_regions_have_a_mask_of_their_own_per_channel():
    method = made(2, regions=True)
    probs = voxels((0.97, 0.60), (0.02, 0.99))
    labels, admitted = method.pseudo_labels(output_of(probs.logit(), True))
    assert labels.tolist() == [[[1, 0], [1, 1]]]
    assert admitted.tolist() == [[[True, True], [False, True]]]
    assert method.report["admitted"] == 0.75
    assert method.report["admitted[channel_0]"] == 1 and method.report["admitted[channel_1]"] == 0.5


def test_the_share_of_each_pseudo_label_is_reported():
    method = made(3)
    method.pseudo_labels(output_of(voxels((0.97, 0.02, 0.01), (0.98, 0.01, 0.01), (0.2, 0.7, 0.1)).log()))
    assert method.report["admitted"].item() == pytest.approx(2 / 3)
    assert [method.report[f"admitted[channel_{c}]"].item() for c in range(3)] == [1, 0, 0]


def test_one_step_by_hand_and_no_gradient_through_the_labels():
    method, net = made(**FixMatch.presets["published"]), Net(Scaled(), kind(2))
    weak = torch.tensor([2.0, 0.1, -2.0]).view(1, 1, 3, 1)  # q = 0.9975, 0.5744, 0.0025
    strong = torch.tensor([1.0, 1.0, 1.0]).view(1, 1, 3, 1)
    terms = method.losses(net, Labeled(torch.zeros(1, 1, 3, 1), torch.zeros(1)), Unlabeled(weak, strong), NOW)
    # labels 0, 0, 1, the second not admitted; CE of the logits (3, 0) is ln(1 + e^-3) and ln(1 + e^3)
    assert terms["pseudo"].item() == pytest.approx((0.048587 + 3.048587) / 3, abs=1e-6)
    terms["pseudo"].backward()
    assert net.module.w.grad.item() == pytest.approx(3 * (-0.047426 + 0.952574) / 3, abs=1e-5)


def test_the_weight_ramps_as_in_medical_code_and_is_constant_in_the_paper():
    method = made(**FixMatch.presets["published"])
    assert [method.ramped_weight(Now(0, 0, r)) for r in (0.0, 0.5, 0.99)] == [1.0, 1.0, 1.0]
    ramped = made()
    assert ramped.ramped_weight(Now(0, 0, 0.5)) == pytest.approx(0.1 * 0.286505, abs=1e-6)
    assert FixMatch.hyperparameters() == {
        "threshold": 0.95,
        "deploy_teacher": False,
        "ema_decay": 0.999,
        "weight": 0.1,
        "rampup": 1.0,
    }


def test_a_moving_average_exists_only_where_it_predicts(tiny_net):
    net, method = tiny_net(), made()
    method.setup(net, None)
    method.after_step(net, NOW)
    assert method.state_dict() == {} and method.deployed(net) is net.module
    averaged = made(deploy_teacher=True)
    averaged.setup(net, None)
    before = averaged.teacher.module.state_dict()["decoder.seg_layers.0.bias"].clone()
    with torch.no_grad():
        for parameter in net.module.parameters():
            parameter.add_(1.0)
    averaged.after_step(net, Now(10000, 40, 0.5))
    after = averaged.deployed(net).state_dict()["decoder.seg_layers.0.bias"]
    torch.testing.assert_close(after - before, torch.full_like(before, 0.001), atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("wrong", [{"threshold": 1.1}, {"ema_decay": -0.1}, {"weight": -1.0}, {"rampup": 2.0}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FixMatch(**wrong)
