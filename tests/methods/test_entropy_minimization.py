"""Entropy minimization against its closed forms."""

import pytest
import torch
from torch.nn import functional as F
from workbench import kind
from workbench import output as output_of

from nnunet_ssl.method import Labeled, Now, Unlabeled
from nnunet_ssl.methods.entropy_minimization import EntropyMinimization, normalized_entropy
from nnunet_ssl.networks.net import Output

END = Now(100, 1, 1.0)


def output(*logits, regions=False) -> Output:
    return output_of(torch.tensor(logits).view(1, -1, 1, 1).requires_grad_(), regions)


def with_epsilon(*probs) -> float:
    """The form with 1e-6 inside the logarithm, which the medical code has."""
    probs = torch.tensor(probs, dtype=torch.float64).view(1, -1, 1)
    return (kind(probs.shape[1]).entropy(probs) / kind(probs.shape[1]).max_entropy).item()


@pytest.mark.parametrize("classes", [2, 3, 4, 14])
def test_a_uniform_prediction_has_entropy_one(classes):
    assert normalized_entropy(output(*[0.3] * classes)).item() == pytest.approx(1, abs=1e-6)


def test_a_certain_prediction_has_entropy_zero():
    for certain in (output(200.0, 0.0), output(60000.0, -60000.0), output(0.0, 500.0, 0.0, 0.0)):
        loss = normalized_entropy(certain)
        assert loss.item() == 0
        loss.backward()
        assert torch.isfinite(certain.logits.grad).all()


def test_the_epsilon_that_we_leave_out():
    assert with_epsilon(*[0.25] * 4) == pytest.approx(0.99999711, abs=1e-8)
    assert with_epsilon(1.0, 0.0, 0.0, 0.0) == pytest.approx(-0.00000072, abs=1e-8)
    assert with_epsilon(0.7, 0.2, 0.1) == pytest.approx(0.729844, abs=5e-7)


def test_three_classes():
    exact = output(*torch.tensor([0.7, 0.2, 0.1]).log().tolist())
    assert normalized_entropy(exact).item() == pytest.approx(0.729847, abs=1e-6)


def test_the_largest_logit_grows():
    ramp = output(2.0, 1.0, 0.0)
    loss = normalized_entropy(ramp)
    loss.backward()
    assert loss.item() == pytest.approx(0.757679, abs=1e-6)
    expected = torch.tensor([-0.257222, 0.128135, 0.129087])
    torch.testing.assert_close(ramp.logits.grad.flatten(), expected, atol=1e-6, rtol=0)


def test_equal_logits_give_no_signal():
    equal = output(1.0, 1.0, 1.0)
    normalized_entropy(equal).backward()
    assert equal.logits.grad.abs().max() < 1e-7


def test_a_region_is_binary():
    logit = torch.tensor(0.9).logit().item()
    assert normalized_entropy(output(logit, regions=True)).item() == pytest.approx(0.468996, abs=1e-6)
    assert normalized_entropy(output(logit, logit, regions=True)).item() == pytest.approx(0.468996, abs=1e-6)


def step(net, **arguments):
    """Terms of a step with three labeled and two unlabeled patches, and the logits of both."""
    method = EntropyMinimization(**arguments)
    method.supervised = lambda output, target: F.cross_entropy(output.logits, target)
    torch.manual_seed(1)
    images, target = torch.randn(5, 1, 16, 16), torch.randint(3, (3, 16, 16))
    seen = []

    def watched(*batches):
        outputs = net(*batches)
        for output in outputs:
            output.logits.retain_grad()
        seen.extend(outputs)
        return outputs

    terms = method.losses(watched, Labeled(images[:3], target), Unlabeled(weak=images[3:]), END)
    return terms, seen, images, target


def test_labeled_patches_count_unless_told_otherwise(tiny_net):
    terms, (seg, free), _, _ = step(tiny_net(2, 3))
    terms["entropy"].backward()
    assert seg.logits.grad.abs().sum() > 0 and free.logits.grad.abs().sum() > 0
    terms, (seg, free), _, _ = step(tiny_net(2, 3), labeled_too=False)
    terms["entropy"].backward()
    assert seg.logits.grad is None and free.logits.grad.abs().sum() > 0


def test_the_mean_is_that_of_all_patches_also_for_unequal_batches(tiny_net):
    net = tiny_net(2, 3)
    terms, _, images, _ = step(net)
    torch.testing.assert_close(terms["entropy"], 0.1 * normalized_entropy(net(images)))
    terms, _, images, _ = step(net, labeled_too=False)
    torch.testing.assert_close(terms["entropy"], 0.1 * normalized_entropy(net(images[3:])))


def test_weight_zero_gives_the_supervised_gradient_bit_for_bit(tiny_net):
    net = tiny_net(2, 3)
    terms, _, _, _ = step(net, weight=0.0)
    sum(terms.values()).backward()
    ours = {name: p.grad.clone() for name, p in net.module.named_parameters() if p.grad is not None}
    net.module.zero_grad()
    terms, _, _, _ = step(net, weight=0.0)
    terms["supervised"].backward()
    assert ours
    for name, parameter in net.module.named_parameters():
        if parameter.grad is not None:
            assert torch.equal(ours[name], parameter.grad)


@pytest.mark.parametrize(("preset", "start", "end"), [("published", 0.00134759, 0.2), ("official", 0.001, 0.001)])
def test_weights_of_the_presets(preset, start, end):
    method = EntropyMinimization(**EntropyMinimization.presets[preset])
    assert method.ramped_weight(Now(0, 0, 0.0)) == pytest.approx(start, abs=5e-9)
    assert method.ramped_weight(END) == end
