"""GenericSSL against its formulas and the gradients that its decoders are promised."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch.nn import functional as F
from workbench import kind, output, task, tiny_architecture, tiny_arguments

from nnunet_ssl.losses.weighted import weighted_supervised
from nnunet_ssl.method import Labeled, Now, Unlabeled
from nnunet_ssl.methods.generic_ssl import GenericSSL
from nnunet_ssl.networks.diffusion import Diffusion, smoothed
from nnunet_ssl.networks.net import Net, Output

END = Now(step=99, epoch=9, fraction=1.0)
HALF = Now(step=50, epoch=5, fraction=0.5)


def ready(dimensions=2, regions=False, ignore=None, residual=False, **arguments):
    """A method with 3 channels; the supervised loss is the cross-entropy at full resolution."""
    made = tiny_architecture(dimensions, 3, seed=0)
    made = made.of_another_form() if residual else made
    net, method = Net(made(), kind(3, regions)), GenericSSL(**arguments)
    method.task = task(dimensions, 3, regions, ignore_label=ignore)

    def supervised(output, target):
        losses = output.kind.cross_entropy(output.logits, target.labels)
        counts = torch.ones_like(losses) if target.annotated is None else target.kind.spread(target.annotated)
        return (losses * counts).sum() / counts.sum()

    method.supervised = supervised
    method.setup(net, replace(made, seed=7))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in method.parameters():  # three decoders that differ
            parameter.add_(0.05 * torch.randn_like(parameter))
    return net, method


def batch(dimensions=2, regions=False, ignore=None):
    torch.manual_seed(3)
    shape = (2, 1, *[16] * dimensions)
    labels = torch.randint(0, 4 if regions else 3, shape).float()
    labels = torch.cat([(labels > c).float() for c in range(3)], 1) if regions else labels
    if ignore is not None:
        unknown = torch.zeros(shape)
        unknown[..., :8] = 1
        labels = torch.cat((labels * (1 - unknown), unknown), 1) if regions else labels.where(unknown == 0, ignore)
    half = labels[(slice(None), slice(None), *[slice(None, None, 2)] * dimensions)]
    target = task(dimensions, 3, regions, ignore_label=ignore).target([labels, half])
    return Labeled(torch.randn(shape), target), Unlabeled(strong=torch.randn(shape))


def gradients(module):
    return {name: parameter.grad for name, parameter in module.named_parameters()}


def none_of(module):
    return all(gradient is None for gradient in gradients(module).values())


def all_of(module):
    return all(gradient is not None and gradient.any() for gradient in gradients(module).values())


def stem_of(net):
    return net.module.encoder.stages[0][0].convs[0]


# ---------------------------------------------------------------------- the losses


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("ignore", [False, True])
def test_the_terms_are_those_of_the_formulas(dimensions, regions, ignore):
    ignore = 4 if ignore else None
    net, method = ready(dimensions, regions, ignore)
    labeled, unlabeled = batch(dimensions, regions, ignore)
    torch.manual_seed(5)
    terms = method.losses(net, labeled, unlabeled, HALF)

    torch.manual_seed(5)  # the same numbers, drawn in the same order
    denoise, psi = method.paths
    u = Diffusion().sample(denoise, unlabeled.strong, 3)
    scales = net.module(unlabeled.strong)
    skips = net.module.encoder(unlabeled.strong)
    y_u = method.pseudo_labels(u, Output(scales, net.kind, {"skips": skips}))
    labels = labeled.target.labels
    x0 = 2 * labels - 1 if regions else 2 * F.one_hot(labels, 3).movedim(-1, 1).float().contiguous() - 1
    if ignore is not None and not regions:
        assert (x0[:, 0, ..., :8] == 1).all() and (x0[:, 1:, ..., :8] == -1).all()
    z = Output(denoise(labeled.image, *Diffusion()(x0)), net.kind)
    weights = ready(dimensions, regions, ignore)[1].difficulty.update(z.hard, None, labeled.target)
    weighted = Output(psi(net.module.encoder(labeled.image)), net.kind)
    expected = {
        "supervised": weighted_supervised(weighted, labeled.target, weights, method.task),
        "supervised_denoising": method.supervised(z, labeled.target),
        "pseudo": 10 * 0.2865048 * net.kind.cross_entropy(scales[0], y_u, "mean"),  # exp(-5 / 4)
    }
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, msg=partial("{}: {}".format, name))
    assert method.report["class_weight[channel_1]"] == weights[1]


def test_the_weight_of_pseudo_labels_ramps_up_over_all_of_training():
    method = GenericSSL()
    assert [round(method.ramped_weight(Now(0, 0, r)), 6) for r in (0.0, 0.5, 1.0)] == [0.067379, 2.865048, 10.0]


def test_pseudo_labels_are_of_all_voxels_where_the_labeled_patches_have_ignored_ones():
    net, method = ready(ignore=4)
    seen = []
    supervised = method.supervised
    method.supervised = lambda output, target: (seen.append(target), supervised(output, target))[1]
    method.losses(net, *batch(ignore=4), END)
    assert [target.annotated.float().mean().item() for target in seen] == [0.5, 1.0]
    assert [scale.shape[2:] for scale in seen[1].scales] == [(16, 16), (8, 8)]


# ---------------------------------------------------------------------- who learns from what


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_pseudo_labels_teach_the_decoder_that_predicts_and_labels_the_others(dimensions, residual):
    learned = {}
    for term in ("supervised", "supervised_denoising", "pseudo"):
        net, method = ready(dimensions, residual=residual)
        method.difficulty.update = lambda *_: torch.ones(3)
        method.losses(net, *batch(dimensions), END)[term].backward()
        stem = net.module.encoder.stem if residual else stem_of(net)
        stems = {id(parameter) for parameter in stem.parameters()}
        encoder = [parameter for parameter in net.module.encoder.parameters() if id(parameter) not in stems]
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in encoder)
        parts = {
            "theta": net.module.decoder.stages, "xi": method.xi.decoder.stages, "psi": method.psi.stages,
            "stem": stem, "stem of xi": method.xi.stem, "time": method.xi.time,
        }  # fmt: skip
        assert all(all_of(part) or none_of(part) for part in parts.values())
        learned[term] = [name for name, part in parts.items() if all_of(part)]
    assert learned == {
        "supervised": ["psi", "stem"],
        "supervised_denoising": ["xi", "stem of xi", "time"],
        "pseudo": ["theta", "stem"],
    }


def test_making_pseudo_labels_keeps_no_graph_and_takes_one_pass_of_the_encoder_for_both():
    net, method = ready()
    labeled, unlabeled = batch()
    passes = []
    block = net.module.encoder.stages[1][0].convs[0]
    block.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    method.losses(net, labeled, unlabeled, END)
    assert passes == [False] * 10 + [True] * 3  # psi reads what theta's pass of the encoder gave


# ---------------------------------------------------------------------- pseudo-labels


def constant_decoder(method, logits):
    method.paths[1] = lambda skips: [torch.tensor(logits).view(1, -1, 1, 1).expand(2, -1, 16, 16)]
    return Output([torch.zeros(2, len(logits), 16, 16)], method.task.kind, {"skips": []})


def test_pseudo_labels_are_of_the_sum_of_both():
    net, method = ready(noise=0.0)
    theta = constant_decoder(method, (2.0, 0.0, 0.0))  # 0.787, 0.107, 0.107
    u = torch.full((2, 3, 16, 16), -1.0)
    u[:, 1] = 1  # softmax: 0.107, 0.787, 0.107
    assert not method.pseudo_labels(0.99 * u, theta).any()
    theta = constant_decoder(method, (1.9, 0.0, 0.0))
    assert (method.pseudo_labels(u, theta)[:, 1:-1, 1:-1] == 1).all()
    assert (method.pseudo_labels(u, theta)[:, 0] == 0).all()  # less is known of xi at the edge


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_pseudo_labels_of_regions(noise):
    """The mean of both above 0.5; beyond the patch neither inside nor outside is likelier."""
    net, method = ready(regions=True, noise=noise)
    theta = constant_decoder(method, (0.0, 3.0, -3.0))
    u = torch.ones(2, 3, 16, 16)
    found = method.pseudo_labels(u, theta)
    assert found.shape == (2, 3, 16, 16)
    if noise == 0:
        assert found[:, 0].all() and found[:, 1].all() and not found[:, 2].any()
        assert not method.pseudo_labels(-u, theta)[:, 0].any()
    else:
        assert found[:, 0].mean() > 0.9 and not found[:, 2].all()


def test_noise_lets_single_voxels_stray_and_smoothing_brings_regions_back():
    """With 14 classes and a perfect u a voxel is right in 36 % of draws."""
    torch.manual_seed(0)
    made = kind(14)
    u = torch.full((2, 14, 24, 24, 24), -1.0)
    u[:, 3] = 1
    p = made.probs(u + made.noise(u))
    assert (p.argmax(1) == 3).float().mean().item() == pytest.approx(0.36, abs=0.01)
    inner = (slice(None), *[slice(1, -1)] * 3)
    assert (smoothed(p).argmax(1) == 3)[inner].float().mean() > 0.98


# ---------------------------------------------------------------------- the moving average


def test_after_a_step_theta_moves_towards_the_mean_of_the_others_in_place():
    net, method = ready()
    theta = net.module.decoder
    for module, value in ((theta, 1.0), (method.xi.decoder, 3.0), (method.psi, 5.0)):
        for name, parameter in module.named_parameters():
            if not name.startswith("encoder"):
                torch.nn.init.constant_(parameter, value)
    encoder = [parameter.clone() for parameter in net.module.encoder.parameters()]
    before = {name: parameter for name, parameter in theta.named_parameters() if not name.startswith("encoder")}
    others = [dict(each.named_parameters()) for each in (method.xi.decoder, method.psi)]
    assert all(other.keys() == before.keys() for other in others)
    method.after_step(net, Now(0, 0, 0.0))
    for name, parameter in before.items():
        assert theta.get_parameter(name) is parameter
        torch.testing.assert_close(parameter, torch.full_like(parameter, 1.03))
    assert all(map(torch.equal, encoder, net.module.encoder.parameters()))
    assert all(float(value.flatten()[0]) == 3.0 for value in others[0].values())


# ---------------------------------------------------------------------- the network


@pytest.mark.parametrize("network", [PlainConvUNet, ResidualEncoderUNet])
def test_what_predicts_is_nnunets_network_of_the_plan(network):
    residual = network is ResidualEncoderUNet
    net, method = ready(3, residual=residual)
    assert method.deployed(net) is net.module and type(net.module) is network
    assert not any(name.startswith(("encoder", "paths")) for name in method.state_dict())
    arguments = tiny_arguments(3)
    if residual:
        arguments["n_blocks_per_stage"] = [1, 3, 4]
        del arguments["n_conv_per_stage"]
    stock = network(1, num_classes=3, deep_supervision=False, **arguments)
    stock.load_state_dict(net.module.state_dict(), strict=True)
    image = torch.randn(2, 1, 16, 16, 16)
    assert torch.equal(stock(image), net.module(image)[0])


def test_a_network_of_the_trainers_own_and_what_is_no_u_net_are_refused():
    own = tiny_architecture(2, 3)
    net, method = Net(own(), kind(3)), GenericSSL()
    method.task = task(2, 3)
    with pytest.raises(NotImplementedError, match="U-Net of nnU-Net's plans"):
        method.setup(net, replace(own, own=own))
    with pytest.raises(NotImplementedError, match="U-Net of nnU-Net's plans"):
        method.setup(Net(torch.nn.Conv2d(1, 3, 1), kind(3)), own)


def test_without_deep_supervision_all_decoders_have_one_scale():
    own = replace(tiny_architecture(2, 3), deep_supervision=False)
    net, method = Net(own(), kind(3)), GenericSSL()
    net.module.decoder.deep_supervision = False
    method.task = task(2, 3, scale_weights=(1.0,))
    method.supervised = lambda output, target: output.kind.cross_entropy(output.logits, target.labels, "mean")
    method.setup(net, own)
    labeled, unlabeled = batch()
    labeled = replace(labeled, target=next(labeled.target.by_scale()))
    terms = method.losses(net, labeled, unlabeled, END)
    sum(terms.values()).backward()
    assert all(torch.isfinite(term) for term in terms.values())
    method.after_step(net, END)


def test_nothing_is_compiled_anew_in_later_steps(monkeypatch):
    graphs = []

    def backend(graph, example):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    torch.compiler.reset()
    own = tiny_architecture(2, 3)
    net, method = Net(torch.compile(own()), kind(3)), GenericSSL()
    method.task, method.supervised = task(2, 3), lambda output, target: output.logits.mean()
    method.setup(net, own)
    made = []
    for step in range(3):
        method.losses(net, *batch(), Now(step, 0, step / 10))
        made.append(len(graphs))
    assert made == [5] * 3  # theta, psi with its own pass and on theta's skips, and xi with and without gradient


def test_presets():
    assert GenericSSL.of_preset("published")[1] == {"absent": "half"}
    assert GenericSSL().absent == "skip"
    for absent, seen in (("half", True), ("skip", False)):
        _, method = ready(absent=absent)
        assert method.difficulty.seen.all() == seen


@pytest.mark.parametrize(
    "wrong", [{"ema_decay": 1.1}, {"noise": -1.0}, {"absent": "zero"}, {"sampling_steps": 1001}, {"weight": -1.0}]
)
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GenericSSL(**wrong)


def test_logits_of_any_size_end_within_the_range_of_label_maps():
    net, method = ready(regions=False)
    method.paths[0] = lambda image, x, times: [1e6 * x]
    u = method.diffusion.sample(method.paths[0], torch.zeros(2, 1, 16, 16), 3)
    assert u.abs().max() == 1 and torch.isfinite(u).all()
    assert output(u).hard.shape == (2, 16, 16)
