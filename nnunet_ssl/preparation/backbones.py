"""nnU-Net's plans with another network: all else stays as planned, so preprocessed data is used as it is."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunet_ssl.data.plans import check_new_name, read_plans_for_networks, require_configurations
from nnunet_ssl.data.raw import read_dataset_json
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import read_json, require_keys, write_json
from nnunet_ssl.locks import locked
from nnunet_ssl.networks import backbones
from nnunet_ssl.networks.transformer import token_sizes
from nnunet_ssl.results.evaluation import read_labels


@dataclass(frozen=True)
class Planned:
    """What the sizes of a network follow from: one configuration of nnU-Net's plans.

    Attributes:
        name: of the configuration, with its plans, for messages.
        patch: voxels per axis.
        channels: of the image.
        features: of each stage of nnU-Net's U-Net.
        strides: of each stage of nnU-Net's U-Net, the first without effect.
    """

    name: str
    patch: tuple[int, ...]
    channels: int
    features: list[int]
    strides: list[list[int]]

    def check_patch(self, factors: list[int]) -> None:
        """Raises InputError unless each axis of the patch is a multiple of its factor."""
        if any(size % factor for size, factor in zip(self.patch, factors, strict=True)):
            fitting = [factor * max(1, round(size / factor)) for size, factor in zip(self.patch, factors, strict=True)]
            raise InputError(
                f"{self.name}: the patch {list(self.patch)} is no multiple of {factors}. Copy the plans under another "
                f'name ("plans_name"), set "patch_size" to {fitting} there, and name the copy with -p.'
            )


def vnet(planned: Planned) -> dict[str, Any]:
    """Fixed sizes; four halvings."""
    planned.check_patch([16] * len(planned.patch))
    if 16 % planned.channels:
        raise InputError(f"{planned.name}: vnet takes 1, 2, 4, 8 or 16 input channels, not {planned.channels}.")
    return {"dimensions": len(planned.patch)}


def attention_unet(planned: Planned) -> dict[str, Any]:
    """Stages, features and strides of the plan."""
    planned.check_patch([math.prod(factors) for factors in zip(*planned.strides, strict=True)])
    return {"features": planned.features, "downsampling": planned.strides[1:]}


def segresnet(planned: Planned) -> dict[str, Any]:
    """First features of the plan, doubled by each of three halvings."""
    planned.check_patch([8] * len(planned.patch))
    features = planned.features[0]
    return {"dimensions": len(planned.patch), "features": features, "groups": math.gcd(8, features)}


def unetr(planned: Planned) -> dict[str, Any]:
    """Positions from the patch; tokens of 16 voxels per axis."""
    planned.check_patch([16] * len(planned.patch))
    return {"patch_size": list(planned.patch)}


def swin_unetr(planned: Planned) -> dict[str, Any]:
    """Fixed sizes; five halvings, and instance norm needs more than one voxel at the bottom."""
    planned.check_patch([32] * len(planned.patch))
    if max(planned.patch) == 32:
        raise InputError(
            f"{planned.name}: swin_unetr needs 64 or more voxels on one axis of the patch, not {list(planned.patch)}."
        )
    return {"dimensions": len(planned.patch)}


def enet(planned: Planned) -> dict[str, Any]:
    """Fixed sizes; three halvings, and the pooled image is among the first 16 features."""
    planned.check_patch([8] * len(planned.patch))
    if planned.channels > 15:
        raise InputError(f"{planned.name}: enet takes 1 to 15 input channels, not {planned.channels}.")
    return {"dimensions": len(planned.patch)}


def primus(embed_dim: int, depth: int, heads: int) -> Callable[[Planned], dict[str, Any]]:
    """Positions from the patch; tokens of 8 voxels per axis, or of the largest power of two that divides the axis."""

    def sizes(planned: Planned) -> dict[str, Any]:
        if len(planned.patch) != 3:
            raise InputError(f"{planned.name}: Primus is made for 3D only.")
        tokens = list(token_sizes(planned.patch))
        if max(tokens) == 1:
            planned.check_patch([8, 8, 8])
        return {
            "patch_size": list(planned.patch), "token_size": tokens,
            "embed_dim": embed_dim, "depth": depth, "heads": heads,
        }  # fmt: skip

    return sizes


# name for the command: the class that the plans name, and how its sizes follow from the plans
NETWORKS: dict[str, tuple[type[backbones.Backbone], Callable[[Planned], dict[str, Any]]]] = {
    "vnet": (backbones.VNet, vnet),
    "attention_unet": (backbones.AttentionUNet, attention_unet),
    "segresnet": (backbones.SegResNet, segresnet),
    "unetr": (backbones.UNETR, unetr),
    "swin_unetr": (backbones.SwinUNETR, swin_unetr),
    "enet": (backbones.ENet, enet),
    "primus_s": (backbones.Primus, primus(396, 12, 6)),
    "primus_b": (backbones.Primus, primus(792, 12, 12)),
    "primus_m": (backbones.Primus, primus(864, 16, 12)),
    "primus_l": (backbones.Primus, primus(1056, 24, 16)),
}


@dataclass(frozen=True)
class Written:
    """What `write_plans` wrote.

    Attributes:
        file: the new plans.
        parameters: number of parameters of the network of each configuration.
        left_out: why a configuration of the old plans is not among the new ones.
    """

    file: Path
    parameters: dict[str, int]
    left_out: dict[str, str]


def write_plans(base: Path, plans: str, network: str, new_plans: str, configurations: list[str] | None) -> Written:
    """Writes plans that differ from others in their name and network only.

    The new plans hold the configurations named, or all that the network can do, each without inheritance: no
    configuration trains nnU-Net's U-Net under the network's name.

    Args:
        base: folder of the dataset in `nnUNet_preprocessed`.
        plans: name of plans of nnU-Net's planner.
        network: a key of `NETWORKS`.
        new_plans: name of the plans to write, beside the old ones.
        configurations: to write; None for all that the network can do.

    Raises:
        InputError: an unknown name; a network that cannot do a configuration named, or any at all; MONAI is missing;
            other plans of the new name exist, or another process writes them.
    """
    if network not in NETWORKS:
        raise InputError(f"No network {network}. Known: {', '.join(NETWORKS)}.")
    check_new_name(new_plans)
    manager = read_plans_for_networks(base, plans)
    dataset = read_dataset_json(base / "dataset.json", "run nnUNetv2_plan_and_preprocess")
    require_keys(dataset, {"channel_names": (dict,)}, base / "dataset.json")
    read_labels(dataset, base / "dataset.json")
    available = manager.available_configurations
    require_configurations(configurations or [], available, base / f"{plans}.json")

    new = copy.deepcopy(manager.plans) | {"plans_name": new_plans, "configurations": {}}
    parameters, left_out = {}, {}
    for name in configurations or available:
        try:
            content = _with_network(manager, name, dataset, network)
        except InputError as reason:
            if configurations:
                raise
            left_out[name] = str(reason)
            continue
        built = _build(ConfigurationManager(content), manager, name, dataset)
        parameters[name] = sum(parameter.numel() for parameter in built.parameters())
        new["configurations"][name] = content
    if not parameters:
        raise InputError("\n".join(left_out.values()))

    file = base / f"{new_plans}.json"
    with locked(file):
        if file.exists() and read_json(file, "remove it") != new:
            raise InputError(f"{file} exists already with other content: choose another name with -o.")
        write_json(new, file)
    return Written(file, parameters, left_out)


def _with_network(manager: PlansManager, name: str, dataset: dict, network: str) -> dict:
    """A configuration with its inheritance resolved and its network replaced."""
    content = copy.deepcopy(manager.get_configuration(name).configuration)
    content.pop("inherits_from", None)
    old = content["architecture"].get("arch_kwargs")
    title = f"{name} of {manager.plans_name}"
    axes = len(content["patch_size"])
    if not isinstance(old, dict) or not _are_stages(old.get("features_per_stage"), old.get("strides"), axes):
        raise InputError(f"{title} has no U-Net of nnU-Net's planner: name plans of nnUNetv2_plan_experiment with -p.")
    cls, sizes = NETWORKS[network]
    channels = determine_num_input_channels(manager, name, dataset)
    planned = Planned(title, tuple(content["patch_size"]), channels, old["features_per_stage"], old["strides"])
    content["architecture"] = {
        "network_class_name": f"{cls.__module__}.{cls.__name__}",
        "arch_kwargs": sizes(planned),
        "_kw_requires_import": [],
    }
    return content


def _are_stages(features: Any, strides: Any, axes: int) -> bool:
    """Whether these can be the features and the strides of the stages of a U-Net."""
    return (
        isinstance(features, list)
        and isinstance(strides, list)
        and len(features) == len(strides) > 1
        and all(isinstance(count, int) and 0 < count < 2**16 for count in features)
        and all(isinstance(steps, list) and len(steps) == axes for steps in strides)
        and all(isinstance(step, int) and 0 < step < 2**16 for steps in strides for step in steps)
    )


def _build(configuration: ConfigurationManager, manager: PlansManager, name: str, dataset: dict) -> nn.Module:
    """The network as nnU-Net builds it."""
    return get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        determine_num_input_channels(manager, name, dataset),
        manager.get_label_manager(dataset).num_segmentation_heads,
        deep_supervision=False,
    )
