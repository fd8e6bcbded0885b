"""TAC against its closed forms, on the plan's networks with gates."""

import pytest
import torch
from tiny_steps import LATE, batches, gradients, ready
from torch.nn import functional as F
from workbench import task, tiny_architecture

from nnunet_ssl.losses.dice import squared_dice
from nnunet_ssl.methods.tac import TAC
from nnunet_ssl.methods.tac_published import TACPublished
from nnunet_ssl.networks.gated_skips import GatedDecoder


def vectors(features, masks, voxels=None):
    """r of each patch, (B, K, features), one class and patch after the other."""
    found = []
    for f, m in zip(features, masks, strict=True):
        sums = [(f * mask).sum(tuple(range(1, f.ndim))) for mask in m]
        found.append(torch.stack(sums) / (masks.sum((0, *range(2, masks.ndim))) + 1e-6)[:, None])
    return torch.stack(found)


def expected(net, labeled, unlabeled, name, published=False, regions=False):
    """The distance of a tap, from the formulas."""
    seg, free = net(labeled.image, unlabeled.weak)
    p = free.logits.sigmoid() if published or regions else free.logits.softmax(1)
    y = labeled.target.full
    y = y if regions else torch.cat([(y == c).float() for c in range(p.shape[1])], 1)
    total = 0
    for h_l, h_u in zip(seg.features[name], free.features[name], strict=True):
        m_l, m_u = (F.interpolate(mask, h_l.shape[2:], mode="nearest-exact") for mask in (y, p))
        present = m_l.sum((0, *range(2, m_l.ndim))) >= (0 if published else 1)
        total = total + (vectors(h_u, m_u) - vectors(h_l, m_l)).square()[:, present].mean()
    return total


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("method", [TAC, TACPublished])
def test_terms_are_the_formulas(method, dimensions, regions):
    net, made = ready(method, dimensions, 3, regions, dropout=0.0)
    labeled, unlabeled = batches(dimensions, 3, regions)
    labeled.target.full[labeled.target.full == 2] = 1  # no patch has class 2
    terms = made.losses(net, labeled, unlabeled, LATE)
    published = method is TACPublished
    for name, tap, weight in (("structure", "gated", 1.0), ("context", "skips", 0.5)):
        wanted = weight * expected(net, labeled, unlabeled, tap, published, regions)
        torch.testing.assert_close(terms[name], wanted, rtol=1e-4, atol=1e-7)
        assert wanted > 0


def test_weights_and_pairing():
    labeled, unlabeled = batches(2, 3, False)
    found = []
    for values in ({}, {"structure": 3.0, "context": 2.0}, {"pairing": "pooled"}):
        net, made = ready(TAC, 2, 3, False, **values)
        found.append(made.losses(net, labeled, unlabeled, LATE))
    once, weighted, together = found
    torch.testing.assert_close(weighted["structure"], 3 * once["structure"])
    torch.testing.assert_close(weighted["context"], 4 * once["context"])
    assert not torch.isclose(together["structure"], once["structure"])


def test_the_supervised_loss_is_nnunets_and_as_published_the_sum_of_dice_over_classes():
    p, t = (torch.tensor(values).view(1, 1, 1, 3) for values in ([0.8, 0.3, 0.1], [1.0, 0.0, 0.0]))
    assert squared_dice(p, t).item() == pytest.approx(0.080459, abs=1e-6)
    labeled, unlabeled = batches(2, 3, False)
    net, made = ready(TAC, 2, 3, False)
    seg = net(labeled.image)
    assert torch.equal(made.losses(net, labeled, unlabeled, LATE)["supervised"], made.supervised(seg, labeled.target))
    net, made = ready(TACPublished, 2, 3, False, dropout=0.0)
    wanted = 0
    for weight, logits, y in zip((2 / 3, 1 / 3), net(labeled.image).pyramid, labeled.target.scales, strict=True):
        for c in range(3):
            wanted = wanted + weight * squared_dice(logits.sigmoid()[:, c : c + 1], (y == c).float())
    torch.testing.assert_close(made.losses(net, labeled, unlabeled, LATE)["supervised"], wanted)


def test_gradients_reach_labeled_and_unlabeled_patches_and_their_predictions():
    net, made = ready(TAC, 2, 3, False)
    labeled, unlabeled = batches(2, 3, False)
    for image in (labeled.image, unlabeled.weak):
        image.requires_grad_()
    terms = made.losses(net, labeled, unlabeled, LATE)
    (terms["structure"] + terms["context"]).backward()
    assert labeled.image.grad.abs().sum() > 0 and unlabeled.weak.grad.abs().sum() > 0
    moved = gradients(net)
    assert moved["decoder.seg_layers.1.weight"].abs().sum() > 0  # by the masks of unlabeled patches alone
    assert all(moved[f"decoder.gates.{gate}.psi.0.weight"].abs().sum() > 0 for gate in (0, 1))


def test_ignored_voxels_count_in_no_term():
    labeled, unlabeled = batches(2, 3, False)
    found = []
    for method in (TAC, TACPublished):
        for value in (0.0, 1e3):
            net, made = ready(method, 2, 3, False, dropout=0.0)
            made.supervised = lambda output, target: output.logits.sum() * 0
            made.task = task(2, 3, ignore_label=3)
            y = [scale.clone() for scale in labeled.target.scales]
            for scale in y:
                scale[..., : scale.shape[-1] // 2] = 3
            net.module.register_forward_hook(shifted(value))
            terms = made.losses(net, type(labeled)(labeled.image, made.task.target(y)), unlabeled, LATE)
            found.append(torch.stack(list(terms.values())))
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[2], found[3])


def shifted(value):
    """Changes what a network says of the ignored voxels of the two labeled patches."""

    def after(module, args, scales):
        changed = [scale.clone() for scale in scales]
        for scale in changed:
            scale[:2, ..., : scale.shape[-1] // 2] += value
        return changed

    return after


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("method", [TAC, TACPublished])
def test_nnunet_builds_the_network_that_predicts_from_the_trainer_whatever_the_preset(method, residual):
    architecture = tiny_architecture(2, 3)
    architecture = architecture.of_another_form() if residual else architecture
    net, made = ready(method, 2, 3, False, architecture=lambda *sizes, seed=5: architecture)
    deployed = made.deployed(net)
    assert deployed is net.module and isinstance(deployed.decoder, GatedDecoder)
    TAC.model(architecture).load_state_dict(deployed.state_dict())


def test_dropout_is_of_training_alone_and_of_the_step_as_published():
    image = torch.randn(1, 1, 16, 16)
    for method, same in ((TAC, True), (TACPublished, False)):
        net, _ = ready(method, 2, 3, False)
        assert torch.equal(net(image).logits, net(image).logits) == same
        net.module.eval()
        assert torch.equal(net(image).logits, net(image).logits)


def test_presets():
    made, values = TAC.of_preset("published")
    assert made is TACPublished
    assert values == {"structure": 1.0, "context": 0.5, "pairing": "index", "present_only": False, "dropout": 0.5}
    assert TAC.hyperparameters() == values | {"present_only": True, "dropout": 0.0}


@pytest.mark.parametrize("wrong", [{"structure": -1.0}, {"context": -1.0}, {"dropout": 1.0}, {"pairing": "all"}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TAC(**wrong)
