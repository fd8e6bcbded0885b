"""BoostMIS against the numbers of its formulas."""

import pytest
import torch
from torch.nn import functional as F
from workbench import Scaled, kind, task
from workbench import output as output_of

from nnunet_ssl.method import Labeled, Now, Unlabeled
from nnunet_ssl.methods.boostmis import BoostMIS
from nnunet_ssl.networks.net import Net

NOW = Now(step=5, epoch=0, fraction=0.5)
WEAK = [(0.95, 0.05), (0.7, 0.3), (0.02, 0.98)]
STRONG = [(2.0, 0.0), (0.0, 1.0), (1.0, 0.0)]


def voxels(*values) -> torch.Tensor:
    """One tuple of channels per voxel as (1, C, voxels)."""
    return torch.tensor(values).T[None]


def made(channels=2, regions=False, **arguments) -> BoostMIS:
    method = BoostMIS(**arguments)
    method.task = task(channels=channels, regions=regions)
    method.supervised = lambda output, target: output.logits.square().mean()
    return method


def eps(last=0.0, before=0.0, channels=2, fraction=0.0, **arguments) -> float:
    method = made(channels, **arguments)
    method.status.shares.copy_(torch.tensor([before, last]))
    return float(method.eps(Now(0, 0, fraction)))


@pytest.mark.parametrize(
    ("last", "before", "annotated", "expected"),
    [
        (800, 1000, 0.6, 0.75),
        (1200, 1000, 1.0, 0.95),
        (1200, 1000, 0.0, 0.9),
        (1000, 0, 0.0, 0.9),
        (1, 1000, 0.0, 0.55),
    ],
)
def test_the_threshold_falls_with_the_share_of_sure_voxels(last, before, annotated, expected):
    """N_A of 2K = 100 candidates; of two classes the threshold is 0.5 + 0.05 at least."""
    assert eps(last / 2000, before / 2000, annotated=annotated) == pytest.approx(expected, abs=1e-6)
    assert eps(last / 2000, before / 2000, annotated=annotated, fraction=0.8) == pytest.approx(0.95, abs=1e-6)


def test_what_was_adopted_raises_the_threshold():
    """Read from the record of `nnunet_ssl adopt`; `annotated` is the least."""
    for share, annotated, expected in ((0.6, 0.0, 0.93), (0.6, 1.0, 0.95), (0.0, 0.4, 0.92), (0.0, 0.0, 0.9)):
        method = made(annotated=annotated)
        method.task = task(adopted_share=share)
        assert float(method.eps(NOW)) == pytest.approx(expected, abs=1e-6)


def test_the_least_threshold_is_above_a_guess():
    assert [eps(0.1, 0.8, channels, threshold=0.8) for channels in (2, 5, 14)] == pytest.approx(
        [0.55, 0.25, 1 / 14 + 0.05]
    )
    assert eps(0.1, 0.8, margin=0.0, threshold=0.8) == pytest.approx(0.5)
    published = BoostMIS.of_preset("published")[1]
    assert eps(0.8, 1.0, **published) == pytest.approx(0.9 * 0.8 + 0.05)


@pytest.mark.parametrize(("of_all", "expected"), [(False, 0.720095), (True, 0.480063)])
def test_the_loss_is_a_mean_over_what_is_admitted(of_all, expected):
    method = made(of_all=of_all)
    labels, admitted = method.pseudo_labels(output_of(voxels(*WEAK).log()), NOW)
    strong = output_of(voxels(*STRONG))
    each = F.cross_entropy(strong.logits, labels, reduction="none")[0]
    assert admitted.tolist() == [[True, False, True]]
    assert [each[0].item(), each[2].item()] == pytest.approx([0.126928, 1.313262], abs=1e-6)
    assert method.pseudo_loss(strong, labels, admitted).item() == pytest.approx(expected, abs=1e-6)
    assert method.report["threshold"] == pytest.approx(0.9)
    assert method.report["admitted"].item() == pytest.approx(2 / 3)
    assert [method.report[f"admitted[channel_{c}]"].item() for c in range(2)] == [0.5, 1]


@pytest.mark.parametrize("of_all", [False, True])
def test_nothing_admitted_gives_no_loss_and_no_gradient(of_all):
    method = made(of_all=of_all)
    labels, admitted = method.pseudo_labels(output_of(voxels((0.8, 0.2), (0.5, 0.5)).log()), NOW)
    strong = torch.randn(1, 2, 2, requires_grad=True)
    loss = method.pseudo_loss(output_of(strong), labels, admitted)
    loss.backward()
    assert loss.item() == 0 and torch.equal(strong.grad, torch.zeros_like(strong))


def test_the_status_follows_the_weak_views():
    """All voxels, all, then 3 of 4 are above 0.95: in the fourth epoch the threshold is 0.9 * 3/4."""
    method = made()
    sure, unsure = (output_of(voxels(*[(0.99, 0.01)] * 3, last).log()) for last in ((0.01, 0.99), (0.92, 0.08)))
    found = []
    for epoch, weak in enumerate((sure, sure, unsure, unsure)):
        for step in range(2):
            method.pseudo_labels(weak, Now(2 * epoch + step, epoch, 0.1))
        found.append(float(method.report["threshold"]))
    assert found == pytest.approx([0.9, 0.9, 0.9, 0.675])


def test_regions_have_a_mask_of_their_own_per_channel():
    method = made(2, regions=True)
    labels, admitted = method.pseudo_labels(output_of(voxels((0.97, 0.60), (0.02, 0.99)).logit(), True), NOW)
    assert labels.tolist() == [[[1, 0], [1, 1]]]
    assert admitted.tolist() == [[[True, True], [False, True]]]
    strong = output_of(voxels((1.0, 0.0), (0.0, 2.0)), True)
    bce = F.binary_cross_entropy_with_logits(strong.logits, labels, reduction="none")
    torch.testing.assert_close(method.pseudo_loss(strong, labels, admitted), bce[admitted].mean())
    assert eps(0.1, 0.8, 3) < 0.4 and float(made(3, True, threshold=0.2).eps(NOW)) == pytest.approx(0.55)


def test_one_step_by_hand_and_no_gradient_through_the_labels():
    method, net = made(), Net(Scaled(), kind(2))
    weak = torch.tensor([2.0, 0.1, -2.0]).view(1, 1, 3, 1)  # q = 0.9975, 0.5744, 0.0025
    strong = torch.ones(1, 1, 3, 1)
    terms = method.losses(net, Labeled(torch.zeros(1, 1, 3, 1), torch.zeros(1)), Unlabeled(weak, strong), NOW)
    # labels 0, 0, 1, the second not admitted; CE of the logits (3, 0) is ln(1 + e^-3) and ln(1 + e^3)
    assert terms["pseudo"].item() == pytest.approx((0.048587 + 3.048587) / 2, abs=1e-6)
    terms["pseudo"].backward()
    assert net.module.w.grad.item() == pytest.approx(3 * (-0.047426 + 0.952574) / 2, abs=1e-5)


def test_the_moving_average_predicts(tiny_net):
    net, method = tiny_net(), made()
    method.setup(net, None)
    before = method.teacher.module.state_dict()["decoder.seg_layers.0.bias"].clone()
    with torch.no_grad():
        for parameter in net.module.parameters():
            parameter.add_(1.0)
    method.after_step(net, Now(10000, 40, 0.5))
    after = method.deployed(net).state_dict()["decoder.seg_layers.0.bias"]
    torch.testing.assert_close(after - before, torch.full_like(before, 0.001), atol=1e-6, rtol=1e-3)
    assert made(deploy_teacher=False).deployed(net) is net.module


def test_the_weight_is_constant():
    assert [made().ramped_weight(Now(0, 0, r)) for r in (0.0, 0.5, 0.99)] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": 1.1}, {"annotation": 0.2}, {"annotated": 1.1}, {"fixed_from": -0.1}, {"margin": 0.6},
        {"weight": -1.0}, {"ema_decay": 1.1},
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        BoostMIS(**wrong)
