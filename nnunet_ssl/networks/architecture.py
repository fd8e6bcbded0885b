"""The plan's network as something that can be built as often as a method needs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

UNETS = "dynamic_network_architectures.architectures.unet."
PLAIN, RESIDUAL = UNETS + "PlainConvUNet", UNETS + "ResidualEncoderUNet"
RESIDUAL_BLOCKS = (1, 3, 4, 6)  # per stage, of nnU-Net's residual presets; deeper stages have as many as the last


@dataclass(frozen=True)
class Architecture:
    """Calling it builds a network with random weights of its own, on the CPU.

    Attributes:
        network_class: dotted name, as in the plans.
        arguments: of the class, as in the plans.
        imports: which arguments are dotted names of classes, as in the plans.
        input_channels: of the image.
        output_channels: classes, or regions.
        deep_supervision: whether the network returns its lower scales, too.
        own: how a trainer with a network of its own builds it, in place of all this.
        patch_size: voxels of the plan's patch along each axis, for networks that are made for one size.
    """

    network_class: str
    arguments: Mapping[str, Any]
    imports: Sequence[str]
    input_channels: int
    output_channels: int
    deep_supervision: bool = True
    own: Callable[[], nn.Module] | None = None
    patch_size: tuple[int, ...] = ()

    def __call__(self) -> nn.Module:
        if self.own is not None:
            return self.own()
        from nnunetv2.utilities.get_network_from_plans import get_network_from_plans  # methods need no nnU-Net

        return get_network_from_plans(
            self.network_class, self.arguments, self.imports, self.input_channels, self.output_channels,
            deep_supervision=self.deep_supervision,
        )  # fmt: skip

    def with_further_input(self, channels: int) -> Architecture:
        """The same network for images with so many channels more.

        Raises:
            NotImplementedError: a trainer builds a network of its own.
        """
        self.require_planned("has no counterpart for more channels")
        return replace(self, input_channels=self.input_channels + channels)

    def require_planned(self, what: str) -> None:
        """Raises NotImplementedError where a trainer builds a network of its own, of which `what` is said."""
        if self.own is not None:
            raise NotImplementedError(f"A network of the trainer's own {what}; take a U-Net of nnU-Net's plans.")

    def of_another_form(self) -> Architecture:
        """The same stages, features and strides with residual blocks in the encoder; with plain ones if it has those.

        Raises:
            NotImplementedError: it is neither of nnU-Net's U-Nets.
        """
        arguments: dict[str, Any] = dict(self.arguments)
        stages: Any = arguments.get("n_stages")  # other networks have none
        if self.own is None and self.network_class == PLAIN:
            del arguments["n_conv_per_stage"]
            arguments["n_blocks_per_stage"] = [*RESIDUAL_BLOCKS, *RESIDUAL_BLOCKS[-1:] * stages][:stages]
            return replace(self, network_class=RESIDUAL, arguments=arguments)
        if self.own is None and self.network_class == RESIDUAL:
            del arguments["n_blocks_per_stage"]
            arguments |= {"n_conv_per_stage": [2] * stages, "n_conv_per_stage_decoder": [2] * (stages - 1)}
            return replace(self, network_class=PLAIN, arguments=arguments)
        name = "A network of the trainer's own" if self.own else self.network_class.rpartition(".")[2]
        raise NotImplementedError(f"{name} has no counterpart of other blocks; take a U-Net of nnU-Net's plans.")


def planned_architecture(
    configuration: ConfigurationManager,
    input_channels: int,
    output_channels: int,
    deep_supervision: bool,
    own: Callable[[], nn.Module] | None = None,
) -> Architecture:
    """The architecture of a configuration of nnU-Net's plans."""
    return Architecture(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        tuple(configuration.network_arch_init_kwargs_req_import),
        input_channels,
        output_channels,
        deep_supervision,
        own,
        tuple(configuration.patch_size),
    )
