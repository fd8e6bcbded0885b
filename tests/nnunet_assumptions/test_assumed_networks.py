"""nnU-Net's U-Nets, of dynamic-network-architectures, and what of torch is not promised."""

import importlib
import inspect
import itertools
import math
from pathlib import Path

import pytest
import torch
from dynamic_network_architectures.architectures.primus import _PRIMUS_CONFIGS, Primus
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.experiment_planners.residual_unets.residual_encoder_unet_planners import (
    ResEncUNetPlanner,
)
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LRScheduler
from workbench import one_rank, tiny_arguments

from nnunet_ssl.kinds import Classes, Regions
from nnunet_ssl.networks.architecture import PLAIN, RESIDUAL, RESIDUAL_BLOCKS
from nnunet_ssl.preparation.backbones import NETWORKS, Planned
from nnunet_ssl.training.pretrained import ENCODER, HEADS, _tensors

FEATURES = (4, 6, 8)  # of the stages of `tiny_arguments`
CLASSES = 3


def unet(kind: str, dimensions: int = 2, **other) -> nn.Module:
    torch.manual_seed(0)
    arguments = tiny_arguments(dimensions) | other
    if kind == RESIDUAL:
        arguments["n_blocks_per_stage"] = arguments.pop("n_conv_per_stage")
    return {PLAIN: PlainConvUNet, RESIDUAL: ResidualEncoderUNet}[kind](
        input_channels=2, num_classes=CLASSES, deep_supervision=True, **arguments
    )


@pytest.fixture(params=[PLAIN, RESIDUAL], ids=["plain", "residual"])
def kind(request) -> str:
    return request.param


@pytest.fixture
def network(kind) -> nn.Module:
    return unet(kind)


IMAGE = torch.linspace(-1, 1, 2 * 16 * 16).view(1, 2, 16, 16)


# ---------------------------------------------------------------------- the U-Nets


def test_plans_name_networks_by_their_modules(kind):
    """`Architecture.of_another_form` turns the one dotted name into the other."""
    module, _, name = kind.rpartition(".")
    assert getattr(importlib.import_module(module), name) is {PLAIN: PlainConvUNet, RESIDUAL: ResidualEncoderUNet}[kind]


def test_network_is_built_from_dotted_names(kind):
    """`Architecture.__call__`, with arguments as plans hold them: these must stay as they are."""
    arguments = tiny_arguments(2) | {"conv_op": "torch.nn.modules.conv.Conv2d", "dropout_op": None}
    if kind == RESIDUAL:
        arguments["n_blocks_per_stage"] = arguments.pop("n_conv_per_stage")
    before = dict(arguments)
    made = get_network_from_plans(kind, arguments, ("conv_op", "dropout_op"), 2, CLASSES, deep_supervision=False)
    assert arguments == before and made.decoder.deep_supervision is False
    assert made(IMAGE).shape == (1, CLASSES, 16, 16)


def test_scales_are_an_attribute_of_the_decoder(network):
    """`set_deep_supervision` finds it in any module; off, one tensor comes, on, a list, the full resolution first."""
    with_it = [module for module in network.modules() if hasattr(module, "deep_supervision")]
    assert with_it == [network.decoder]
    scales = network(IMAGE)
    assert isinstance(scales, list) and [scale.shape[-1] for scale in scales] == [16, 8]
    network.decoder.deep_supervision = False
    assert torch.equal(network(IMAGE), scales[0])


def test_weights_are_the_same_with_and_without_scales(kind):
    """What was trained with deep supervision is loaded strictly into a network without."""
    network, single = unet(kind), unet(kind)
    single.decoder.deep_supervision = False
    single.load_state_dict(network.state_dict(), strict=True)
    assert single.state_dict().keys() == network.state_dict().keys()


def test_encoder_returns_features_from_full_resolution_down(network):
    """The taps "skips" and "bottleneck" are what `encoder` returns; dropout acts behind `encoder.stages[-1]`."""
    skips = network.encoder(IMAGE)
    assert isinstance(skips, list)
    assert [skip.shape[1:] for skip in skips] == [(4, 16, 16), (6, 8, 8), (8, 4, 4)]
    kept = []
    network.encoder.stages[-1].register_forward_hook(lambda module, args, out: kept.append(out))
    assert torch.equal(network.encoder(IMAGE)[-1], kept[0])


def test_decoder_works_on_skips_alone(network):
    """`further_decoder` deletes `decoder.encoder` and calls the rest with skips of another network."""
    expected = network(IMAGE)
    skips = network.encoder(IMAGE)
    assert network.decoder.encoder is network.encoder
    del network.decoder.encoder
    assert all(map(torch.equal, network.decoder(skips), expected))


def test_decoder_is_ordered_from_the_lowest_scale_up(network):
    """Taps reverse `decoder.stages`, heads are perturbed from the second last on, and `seg_layers[-1]` is the full."""
    order = []
    for number, stage in enumerate(network.decoder.stages):
        stage.register_forward_hook(lambda module, args, out, number=number: order.append((number, out.shape[1:])))
    network(IMAGE)
    assert order == [(0, (6, 8, 8)), (1, (4, 16, 16))]
    assert [head.in_channels for head in network.decoder.seg_layers] == [6, 4]
    assert isinstance(network.decoder.seg_layers, nn.ModuleList) and len(network.decoder.transpconvs) == 2


def test_heads_are_one_convolution_each(network):
    """SS-Net asks `seg_layers[-1].in_channels`; dropout, taps and perturbations stand before the head as a hook."""
    network.decoder.seg_layers[-1].register_forward_pre_hook(lambda head, args: (0 * args[0],))
    full, lower = network(IMAGE)
    bias = network.decoder.seg_layers[-1].bias
    assert torch.equal(full, bias.view(1, -1, 1, 1).expand_as(full)) and lower.std() > 0


def test_without_scales_only_the_full_head_is_used(network):
    """`further_decoder` keeps `seg_layers[-1:]` where scales are not wanted: no parameter is left without gradient."""
    expected = network(IMAGE)[0]
    network.decoder.deep_supervision, network.decoder.seg_layers = False, network.decoder.seg_layers[-1:]
    assert torch.equal(network(IMAGE), expected)


def test_transposed_convolutions_tell_factors_and_channels(network):
    """`further_decoder` puts interpolation by the same factors in their place, one call with one tensor each."""
    for layer, channels in zip(network.decoder.transpconvs, itertools.pairwise(FEATURES[::-1]), strict=True):
        assert (layer.in_channels, layer.out_channels) == channels and tuple(layer.stride) == (2, 2)
        assert layer.bias is not None
    network.decoder.transpconvs = nn.ModuleList(
        nn.Sequential(nn.Conv2d(*channels, 1), nn.Upsample(scale_factor=(2, 2)))
        for channels in itertools.pairwise(FEATURES[::-1])
    )
    assert network(IMAGE)[0].shape == (1, CLASSES, 16, 16)


def test_each_tensor_of_the_encoder_has_several_names(network):
    """`pretrained.py` takes the first of them, which begins with `encoder.`, and leaves out what is a head."""
    state = network.state_dict()
    first = _tensors(network)
    assert any(name.startswith(f"decoder.{ENCODER}") for name in state)
    parts = {"encoder" if name.startswith(ENCODER) else "head" if HEADS in f".{name}" else "decoder" for name in first}
    assert parts == {"encoder", "head", "decoder"} and len(first) == len(list(network.parameters()))
    assert not any(name.startswith(f"decoder.{ENCODER}") for name in first)


def test_input_layer_is_named(network):
    """`-pretrained_weights` shares the first layer out over other numbers of channels, where the network names it."""
    named = [name for name in network.keys_to_in_proj if f"{name}.weight" in _tensors(network)]
    assert len(named) == 1 and _tensors(network)[f"{named[0]}.weight"].shape[1] == 2


def test_networks_have_no_dropout_and_no_statistics_of_batches(network):
    """Methods with stochastic passes add dropout themselves; teachers, BCP and two streams in one batch rest on it."""
    kinds = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)
    assert not [module for module in network.modules() if isinstance(module, kinds)]
    assert not list(network.buffers())
    assert torch.equal(network.train()(IMAGE)[0], network.eval()(IMAGE)[0])


def test_blocks_of_nnunets_presets(dataset):
    """The counterpart of other blocks, MCF's second network, has as many as nnU-Net's own planners give."""
    residual = vars(ResEncUNetPlanner(7))
    assert tuple(residual["UNet_blocks_per_stage_encoder"][:4]) == RESIDUAL_BLOCKS
    assert set(residual["UNet_blocks_per_stage_encoder"][4:]) == {RESIDUAL_BLOCKS[-1]}
    plain = vars(ExperimentPlanner(7))
    assert {*plain["UNet_blocks_per_stage_encoder"], *plain["UNet_blocks_per_stage_decoder"]} == {2}


def test_primus_takes_these_arguments():
    """`transformer` and the backbones build it by name; Cross Teaching's token sizes need not be equal."""
    network = Primus(
        input_channels=1, embed_dim=12, patch_embed_size=(1, 8, 8), num_classes=CLASSES, eva_depth=1, eva_numheads=1,
        input_shape=(1, 16, 16), drop_path_rate=0.1, init_values=0.1, scale_attn_inner=True,
    )  # fmt: skip
    assert network(torch.zeros(1, 1, 1, 16, 16)).shape == (1, CLASSES, 1, 16, 16)


@pytest.mark.parametrize("size", "SBML")
def test_sizes_of_primus(size):
    """`nnunet_ssl backbone --network primus_m` means what dynamic-network-architectures and the paper call so."""
    _, sizes = NETWORKS[f"primus_{size.lower()}"]
    ours = sizes(Planned("3d_fullres", (16, 16, 16), 1, [], []))
    theirs = _PRIMUS_CONFIGS[size]
    assert [ours[key] for key in ("embed_dim", "depth", "heads")] == [
        theirs[key] for key in ("embed_dim", "eva_depth", "eva_numheads")
    ]


def test_second_networks_begin_as_nnunets(kind, monkeypatch):
    """`Architecture.__call__` leaves the start to nnU-Net: its own weights, drawn anew for each network."""
    begun, network_class = [], {PLAIN: PlainConvUNet, RESIDUAL: ResidualEncoderUNet}[kind]
    monkeypatch.setattr(network_class, "initialize", staticmethod(begun.append))
    arguments = tiny_arguments(2)
    if kind == RESIDUAL:
        arguments["n_blocks_per_stage"] = arguments.pop("n_conv_per_stage")
    network = get_network_from_plans(kind, arguments, (), 1, 2)
    assert begun[-1] is network


@pytest.mark.parametrize("kind_of_channels", [Classes(3), Regions(3)], ids=["classes", "regions"])
def test_cross_entropy_with_an_ignore_label(kind_of_channels):
    """`ignore_factor`: nnU-Net's is the mean over voxels that count, but for regions then a sum over channels."""
    logits, no_dice = torch.zeros(1, 3, 4, 4), {"weight_dice": 0}
    if isinstance(kind_of_channels, Regions):
        loss = DC_and_BCE_loss({}, {}, use_ignore_label=True, **no_dice)
        target, mean = torch.zeros(1, 4, 4, 4), math.log(2)
        target[:, -1, :2] = 1
    else:
        loss = DC_and_CE_loss({}, {}, ignore_label=3, **no_dice)
        target, mean = torch.zeros(1, 1, 4, 4), math.log(3)
        target[:, :, :2] = 3
    assert float(loss(logits, target)) == pytest.approx(kind_of_channels.ignore_factor * mean)


# ---------------------------------------------------------------------- torch


def test_compiled_networks_have_the_plain_one_inside():
    """`unwrap` takes it out of `_orig_mod`, and `Net.compiled` asks for this class; weights get a prefix otherwise."""
    plain = nn.Linear(2, 2)
    compiled = torch.compile(plain)
    assert isinstance(compiled, OptimizedModule) and compiled._orig_mod is plain
    assert list(compiled.state_dict()) == ["_orig_mod.weight", "_orig_mod.bias"]


def in_a_group(rank: int, folder: Path) -> None:
    with one_rank(rank, 1, folder):
        plain = nn.Linear(2, 2)
        assert DistributedDataParallel(plain).module is plain


def test_wrapped_networks_have_the_plain_one_inside(tmp_path):
    """`unwrap` and `Net.predict` go below DDP by `module`: a forward without gradient would confuse its buckets."""
    torch.multiprocessing.start_processes(in_a_group, (tmp_path,), nprocs=1, start_method="fork")


@pytest.mark.parametrize(("skip", "seen"), [(True, False), (False, True)])
def test_compiled_networks_overlook_hooks_unless_this_is_set(skip, seen):
    """`let_compile_see_hooks` sets it: else a student runs without dropout and taps in the graph of another network."""
    plain, hooked = (nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU()) for _ in range(2))
    hooked[0].register_forward_hook(lambda module, args, out: out + 100)
    with torch._dynamo.config.patch(skip_nnmodule_hook_guards=skip):
        torch.compiler.reset()
        for network in (plain, hooked):
            value = torch.compile(network, backend="eager")(torch.zeros(1, 1, 4, 4)).max()
    assert (value.item() > 50) is seen
    torch.compiler.reset()


def test_averages_of_many_tensors_at_once():
    """`Teacher.update` averages all weights by one call, in place, with a number for the share of the student."""
    mine, theirs = [torch.zeros(2), torch.ones(3)], [torch.ones(2), torch.zeros(3)]
    torch._foreach_lerp_(mine, theirs, 0.25)
    assert [tensor.tolist() for tensor in mine] == [[0.25] * 2, [0.75] * 3]


def test_nnunets_schedule_is_one_of_torchs(trainer):
    """`Restarted` calls `step` with the place in the schedule, which torch's own schedulers no longer like."""
    assert isinstance(trainer.lr_scheduler, LRScheduler)
    assert list(inspect.signature(trainer.lr_scheduler.step).parameters) == ["current_step"]


def test_channel_dropout_draws_whole_channels_of_each_image():
    """`torch.feature_dropout` has no documentation of its own: dropout of channels stands on it."""
    torch.manual_seed(0)
    dropped = torch.feature_dropout(torch.ones(50, 4, 3, 3), 0.5, True)
    assert {*dropped.flatten(2).amin(2).flatten().tolist()} == {0.0, 2.0}
    assert torch.equal(dropped.amin((2, 3)), dropped.amax((2, 3)))
    assert len(torch.unique(dropped.amax((2, 3)), dim=0)) > 4
    assert torch.equal(torch.feature_dropout(torch.ones(2, 4, 3), 0.5, False), torch.ones(2, 4, 3))


def test_extra_state_is_part_of_a_state():
    """`OwnOptimizer` saves an optimizer with the method by it; loading gives it back, also in a submodule."""

    class Holder(nn.Module):
        kept = {"step": 3}

        def get_extra_state(self):
            return self.kept

        def set_extra_state(self, state):
            self.kept = state

    saved, loaded = nn.ModuleDict({"own": Holder()}), nn.ModuleDict({"own": Holder()})
    loaded["own"].kept = {}
    loaded.load_state_dict(saved.state_dict())
    assert saved.state_dict() == {"own._extra_state": {"step": 3}} and loaded["own"].kept == {"step": 3}
