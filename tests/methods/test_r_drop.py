"""R-Drop against its closed forms; dropout acts in training, compiled too, and nowhere else."""

import pytest
import torch
from torch.nn import functional as F
from workbench import kind, tiny_network
from workbench import output as output_of

from nnunet_ssl.losses.divergence import symmetric_kl
from nnunet_ssl.method import Labeled, Now, Unlabeled
from nnunet_ssl.methods.r_drop import PATIENCE, RDrop
from nnunet_ssl.networks.net import Net, Output

START, END = Now(0, 0, 0.0), Now(100, 1, 1.0)


def output(*logits, regions=False) -> Output:
    return output_of(torch.tensor(logits).view(1, -1, 1, 1).requires_grad_(), regions)


def cross_entropy(output, target):
    return F.cross_entropy(output.logits, target)


def ready(net, dropout=0.5, **arguments) -> RDrop:
    method = RDrop(dropout=dropout, **arguments)
    method.supervised = cross_entropy
    method.setup(net, None)
    return method


def batches(dimensions=2, labeled=3, unlabeled=2):
    torch.manual_seed(1)
    image = torch.randn(labeled + unlabeled, 1, *[16] * dimensions)
    target = torch.randint(2, (labeled, *[16] * dimensions))
    return Labeled(image[:labeled], target), Unlabeled(weak=image[labeled:])


def test_divergence_and_its_class_mean():
    first, second = output(2.0, 0.0), output(0.0, 0.0)
    assert RDrop().divergence(first, second).item() == pytest.approx(0.380797, abs=1e-6)
    assert RDrop(class_mean=True).divergence(first, second).item() == pytest.approx(0.190399, abs=1e-6)


def test_a_region_is_a_pair_of_classes():
    first, second = output(2.0, regions=True), output(0.0, regions=True)
    assert RDrop().divergence(first, second).item() == pytest.approx(0.380797, abs=1e-6)
    assert RDrop(class_mean=True).divergence(first, second).item() == pytest.approx(0.190399, abs=1e-6)
    twice = output(2.0, 2.0, regions=True), output(0.0, 0.0, regions=True)
    assert RDrop().divergence(*twice).item() == pytest.approx(0.380797, abs=1e-6)


def test_equal_passes_cost_nothing():
    first, second = output(2.0, 0.5, -1.0), output(2.0, 0.5, -1.0)
    loss = RDrop().divergence(first, second)
    loss.backward()
    assert loss.item() == 0
    assert not first.logits.grad.any() and not second.logits.grad.any()


def test_constants_and_the_order_of_the_passes_do_not_matter():
    value = RDrop().divergence(output(2.0, 0.0), output(0.0, 1.0)).item()
    assert RDrop().divergence(output(5.0, 3.0), output(0.0, 1.0)).item() == pytest.approx(value, abs=1e-6)
    assert RDrop().divergence(output(0.0, 1.0), output(2.0, 0.0)).item() == value


@pytest.mark.parametrize(
    ("logits", "over_classes", "over_columns"),
    [([[2.0, 2.0], [0.0, 0.0]], 0.190399, 0.0), ([[0.0, 1.0], [0.0, 1.0]], 0.0, 0.057765)],
)
def test_the_divergence_runs_over_classes_and_not_over_the_last_axis(logits, over_classes, over_columns):
    """Two classes in rows, two columns of voxels; over columns is what the medical code computes."""
    first = torch.tensor(logits).view(1, 2, 1, 2)
    second = torch.zeros_like(first)
    method = RDrop(class_mean=True)
    loss = method.divergence(output_of(first), output_of(second))
    assert loss.item() == pytest.approx(over_classes, abs=1e-6)
    turned = symmetric_kl(*(output_of(logits.transpose(1, 3)) for logits in (first, second))).mean() / 2
    assert turned.item() == pytest.approx(over_columns, abs=1e-6)


def test_the_supervised_loss_is_the_mean_of_both_passes():
    passes = torch.tensor([[2.0, 0.0], [0.0, 0.0]])[..., None, None]
    method, label = RDrop(), torch.zeros(1, 1, 1, dtype=torch.long)
    method.supervised = cross_entropy

    def network(*batches):
        assert len(batches) == 2 and torch.equal(*batches)
        return tuple(output_of(z.expand(2, -1, -1, -1)) for z in passes)

    image = torch.zeros(1, 1, 1, 1)
    terms = method.losses(network, Labeled(image, label), Unlabeled(weak=image), END)
    assert terms["supervised"].item() == pytest.approx(0.410038, abs=1e-6)
    assert terms["divergence"].item() == pytest.approx(0.380797, abs=1e-6)


def test_the_gradient_flows_to_both_passes():
    first, second = output(2.0, 0.0), output(0.0, 0.0)
    RDrop().divergence(first, second).backward()
    assert first.logits.grad[0, 0] > 0 > second.logits.grad[0, 0]
    assert first.logits.grad[0, 1] < 0 < second.logits.grad[0, 1]


@pytest.mark.parametrize("dimensions", [2, 3])
def test_passes_differ_in_training_and_agree_in_evaluation(tiny_net, dimensions):
    net = tiny_net(dimensions)
    image = torch.randn(1, 1, *[16] * dimensions)
    plain = net(image).logits
    method = ready(net)
    net.module.train()
    first, second = net(image, image)
    assert not torch.equal(first.logits, second.logits)
    assert method.divergence(first, second).item() > 0
    net.module.eval()
    first, second = net(image, image)
    assert torch.equal(first.logits, second.logits)
    assert method.divergence(first, second).item() == 0
    torch.testing.assert_close(first.logits, plain)
    assert method.deployed(net) is net.module


def test_passes_that_never_differ_are_an_error(tiny_net):
    net, streams = tiny_net(), batches()
    method = ready(net)
    net.module.eval()
    for _ in range(PATIENCE - 1):
        assert method.losses(net, *streams, START)["divergence"].item() == 0
    with pytest.raises(RuntimeError, match=f"PlainConvUNet were equal in {PATIENCE} steps"):
        method.losses(net, *streams, START)


def test_passes_that_are_equal_now_and_then_are_none(tiny_net):
    net, streams = tiny_net(), batches()
    method = ready(net)
    net.module.eval()
    method.losses(net, *streams, START)
    net.module.train()
    assert method.losses(net, *streams, START)["divergence"].item() > 0
    net.module.eval()
    for _ in range(PATIENCE + 1):
        assert method.losses(net, *streams, END)["divergence"].item() == 0


def test_dropout_survives_compilation():
    net = Net(torch.compile(tiny_network(2, 2), backend="aot_eager"), kind(2))
    names = list(net.module.state_dict())
    method = ready(net)
    assert list(net.module.state_dict()) == names == list(tiny_network(2, 2).state_dict())
    net.network.train()
    labeled, unlabeled = batches()
    first = method.losses(net, labeled, unlabeled, START)["divergence"]
    again = method.losses(net, labeled, unlabeled, START)["divergence"]
    assert first.item() > 0 and again.item() > 0 and first.item() != again.item()
    first.backward()
    assert any(p.grad is not None and p.grad.any() for p in net.module.parameters())
    net.network.eval()
    assert method.losses(net, labeled, unlabeled, END)["divergence"].item() == 0


@pytest.mark.parametrize("labeled_too", [False, True])
def test_which_patches_diverge(tiny_net, labeled_too):
    net, seen = tiny_net(), []
    method = ready(net, labeled_too=labeled_too)

    def watched(*images):
        outputs = net(*images)
        for output in outputs:
            output.logits.retain_grad()
        seen.extend(outputs)
        return outputs

    method.losses(watched, *batches(), END)["divergence"].backward()
    for output in seen:
        moved = output.logits.grad.flatten(1).any(1)
        assert moved.tolist() == [labeled_too] * 3 + [True] * 2


@pytest.mark.parametrize(("preset", "start", "end"), [("published", 0.0269518, 4.0), ("official", 0.3, 0.3)])
def test_weights_of_the_presets(preset, start, end):
    method = RDrop(**RDrop.presets[preset])
    assert method.dropout == 0.2
    assert method.ramped_weight(START) == pytest.approx(start, abs=5e-7)
    assert method.ramped_weight(END) == end


@pytest.mark.parametrize("wrong", [{"dropout": 0.0}, {"dropout": 1.0}, {"weight": -1.0}, {"rampup": 1.5}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RDrop(**wrong)


def test_other_architectures_are_refused_with_a_reason():
    with pytest.raises(NotImplementedError, match="Conv2d has no encoder"):
        RDrop().setup(Net(torch.nn.Conv2d(1, 2, 1), kind(2)), None)
