"""The contract between a semi-supervised method and the trainer: a handful of calls."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from nnunet_ssl.networks.architecture import Architecture
from nnunet_ssl.networks.net import Net, Output
from nnunet_ssl.task import Target, Task


@dataclass(frozen=True)
class Now:
    """Where training stands.

    Attributes:
        step: 0-based, over the whole run.
        epoch: 0-based.
        fraction: of training done, in [0, 1).
        phase: 0 until the first of the method's `phases` begins, then 1, and so on.
    """

    step: int
    epoch: int
    fraction: float
    phase: int = 0


@dataclass(frozen=True)
class Labeled:
    """A labeled batch.

    Attributes:
        image: (B, channels, *spatial).
        target: what the network should say, at all scales of nnU-Net's loss.
        cases: ids of the B cases that the patches come from.
        maps: what `Method.case_maps` made, moved as the image was, (B, M, *spatial); M is 0 without it.
    """

    image: Tensor
    target: Target
    cases: tuple[str, ...] = ()
    maps: Tensor = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Unlabeled:
    """An unlabeled batch as aligned views (B, channels, *spatial) of the same patches; only those a method asks for.

    Attributes:
        weak: nnU-Net's spatial transforms and mirroring.
        strong: the same geometry plus nnU-Net's intensity transforms, by the loaders or, with a GPU, on it.
        target: the pseudo-label of the case in the same geometry; none before the first of the method's `phases`.
        cases: ids of the B cases that the patches come from.
    """

    weak: Tensor = None  # type: ignore[assignment]  # what a method did not ask for is not there
    strong: Tensor = None  # type: ignore[assignment]
    target: Target = None  # type: ignore[assignment]
    cases: tuple[str, ...] = ()


class Method(nn.Module):
    """One paper. Submodules are its extra networks, buffers its state: `state_dict()` is all that a resume needs.

    Hyperparameters are keyword arguments of the constructor; the paper's values are the preset "published".

    Attributes:
        views: the views of each unlabeled patch that `losses` reads, of "weak", "strong" and "target"; a constructor
            may ask for fewer. A class with none trains without unlabeled scans. With "target", which needs
            `labeled_first`, at the start of each phase the student as it is then labels all unlabeled cases.
        known_voxels: where pseudo-labels of whole cases may leave voxels out, `known_voxels(case, logits)` of the
            case's id and its logits (C, *spatial) gives those that count, bool (*spatial). It changes no state, since
            each rank labels other cases. `Unlabeled.target` has the others as not annotated.
        case_maps: where maps travel with the patches of labeled cases, `case_maps(case, segmentation, spacing)` of a
            case's id, its labels (*spatial), -1 outside of the object, and the mm between voxels gives them, float
            (M, *spatial): once per case at the start of training. `Labeled.maps` has them moved as the image is, with
            linear interpolation, and 0 where a patch reaches beyond the case.
        presets: named sets of hyperparameters that differ from the defaults, or a method where the step is another
            one; "published" is the paper's.
        task: what is known of the data set; set by the trainer before `setup`.
        supervised: nnU-Net's own loss over all scales, called with an `Output` and a target; set by the trainer.
        phases: fractions of training at which another phase begins: nnU-Net's learning rate starts anew and comes down
            again by the next one, and the optimizer forgets its momentum.
        labeled_first: whether there are no unlabeled patches before the first of `phases`.
        report: figures to log per epoch beside the losses (scalar tensors or floats), filled anew by each step.
    """

    views: tuple[str, ...] = ("weak",)
    presets: ClassVar[Mapping[str, dict[str, Any] | type[Method]]] = {"published": {}}
    phases: tuple[float, ...] = ()
    labeled_first: bool = False
    known_voxels: Callable[[str, Tensor], Tensor] | None = None
    case_maps: Callable[[str, np.ndarray, tuple[float, ...]], np.ndarray] | None = None
    task: Task
    supervised: Callable[[Output, Target], Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.report: dict[str, Tensor | float] = {}

    @classmethod
    def student(cls, architecture: Architecture) -> nn.Module:
        """The network in training: that of the plan, unless the paper has one of its own."""
        return architecture()

    @classmethod
    def model(cls, architecture: Architecture) -> nn.Module:
        """The network that `deployed` returns, with whatever weights: nnU-Net builds it to load a checkpoint."""
        return cls.student(architecture)

    def setup(self, net: Net, new_net: Architecture) -> None:
        """Builds teachers, twins and heads.

        Args:
            net: the student.
            new_net: the plan's architecture; called, it makes another network with its own random weights.

        Raises:
            NotImplementedError: the method cannot work with this network or data set, with the reason.
        """

    def begin_phase(self, net: Net, phase: int) -> None:
        """Called before the first step of each of `phases`; the first of them is phase 1."""

    def losses(self, net: Net, labeled: Labeled, unlabeled: Unlabeled, now: Now) -> dict[str, Tensor]:
        """The weighted scalar terms of one step by name, "supervised" among them; their sum is minimized."""
        raise NotImplementedError(f"{type(self).__name__} must say what its losses are")

    def after_step(self, net: Net, now: Now) -> None:
        """After the optimizer's step: moving averages, statistics, a discriminator's own step."""

    def deployed(self, net: Net) -> nn.Module:
        """The network that validates, is saved and predicts: the student, unless the paper says otherwise."""
        return net.module

    @classmethod
    def reads_unlabeled(cls) -> bool:
        """Whether it trains with unlabeled scans; without any view of them it is a supervised baseline."""
        return bool(cls.views)

    @classmethod
    def hyperparameters(cls) -> dict[str, Any]:
        """All keyword arguments with their defaults, those included that a constructor hands on as `**arguments`."""
        found: dict[str, Any] = {}
        for parent in cls.__mro__:
            if not issubclass(parent, Method) or "__init__" not in vars(parent):
                continue
            parameters = inspect.signature(parent.__init__).parameters
            for name, parameter in parameters.items():
                if parameter.default is not inspect.Parameter.empty:
                    found.setdefault(name, parameter.default)
            if all(parameter.kind is not inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
                break
        return found

    @classmethod
    def of_preset(cls, name: str) -> tuple[type[Method], dict[str, Any]]:
        """The method and the hyperparameters of a preset; "default" is this method with its defaults."""
        preset = {"default": {}, **cls.presets}[name]
        return (cls, preset) if isinstance(preset, dict) else (preset, preset.hyperparameters())


def check_range(name: str, value: float, low: float, high: float = float("inf")) -> None:
    """Raises ValueError unless low <= value <= high (NaN fails)."""
    if not low <= value <= high:
        raise ValueError(f"{name} = {value} is out of range: it must lie in [{low:g}, {high:g}]")
