"""The contract between a semi-supervised method and the trainer: a handful of calls."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nnunet_ssl.networks.architecture import Architecture
from nnunet_ssl.networks.net import Net, Output
from nnunet_ssl.schedules import gaussian_rampup


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
        target: as nnU-Net makes it, a list over scales with deep supervision.
        cases: ids of the B cases that the patches come from.
    """

    image: Tensor
    target: Tensor | list[Tensor]
    cases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unlabeled:
    """An unlabeled batch as aligned views (B, channels, *spatial) of the same patches; only those a method asks for.

    Attributes:
        weak: nnU-Net's spatial transforms and mirroring.
        strong: the same geometry plus nnU-Net's intensity transforms.
        target: the pseudo-label of the case in the same geometry, in the form of `Labeled.target`; none before the
            first of the method's `phases`.
        cases: ids of the B cases that the patches come from.
    """

    weak: Tensor | None = None
    strong: Tensor | None = None
    target: Tensor | list[Tensor] | None = None
    cases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """What a method may know of the data set and of nnU-Net's loss.

    Attributes:
        channels: names of the output channels: classes, the background first, or regions.
        regions: whether the channels are regions (sigmoid).
        ignore_label: the label that targets use for unannotated voxels; with regions, targets have one more channel.
        batch_dice: whether nnU-Net's Dice sums over the batch.
        scale_weights: weights of nnU-Net's loss over the scales of deep supervision.
        image_channels: number of channels of the images.
        unlabeled_batch_size: unlabeled patches per step (of this process).
        patch_size: voxels of a training patch along each axis.
        spacing: mm between voxels along each axis.
        mirror_axes: spatial axes, from 0, along which nnU-Net mirrors.
        labeled_cases: ids of the labeled training cases.
        voxel_counts: counts the voxels of each channel over the labeled training cases, (C,) float64; with regions
            one more entry, for voxels in none of them.
    """

    channels: tuple[str, ...]
    regions: bool
    ignore_label: int | None
    batch_dice: bool
    scale_weights: tuple[float, ...]
    image_channels: int
    unlabeled_batch_size: int
    patch_size: tuple[int, ...]
    spacing: tuple[float, ...]
    mirror_axes: tuple[int, ...]
    voxel_counts: Callable[[], Tensor]
    labeled_cases: tuple[str, ...] = ()

    def split_target(self, target: Tensor) -> tuple[Tensor, Tensor | None]:
        """A target of nnU-Net at one scale as labels and as the voxels (B, *spatial) that are annotated, None for all.

        Labels are class numbers (B, *spatial), or regions (B, C, *spatial).
        """
        if self.regions:
            return (target, None) if self.ignore_label is None else (target[:, :-1], ~target[:, -1].bool())
        labels = target[:, 0].long()
        if self.ignore_label is None:
            return labels, None
        return torch.where(labels == self.ignore_label, 0, labels), labels != self.ignore_label

    def one_hot(self, labels: Tensor) -> Tensor:
        """Class numbers (B, *spatial), or regions 0/1, as a mask of each channel, bool (B, C, *spatial)."""
        if self.regions:
            return labels.bool()
        classes = torch.arange(len(self.channels), device=labels.device).view(-1, *[1] * (labels.ndim - 1))
        return labels[:, None] == classes


class Method(nn.Module):
    """One paper. Submodules are its extra networks, buffers its state: `state_dict()` is all that a resume needs.

    Hyperparameters are keyword arguments of the constructor; the paper's values are the preset "published".

    Attributes:
        views: the views of each unlabeled patch that `losses` reads, of "weak", "strong" and "target"; a constructor
            may ask for fewer. With "target", which needs `labeled_first`, at the start of each phase the student as it
            is then labels all unlabeled cases.
        presets: named sets of hyperparameters that differ from the defaults; "published" is the paper's.
        task: what is known of the data set; set by the trainer before `setup`.
        supervised: nnU-Net's own loss over all scales, called with an `Output` and a target; set by the trainer.
        phases: fractions of training at which another phase begins: nnU-Net's learning rate starts anew and comes down
            again by the next one, and the optimizer forgets its momentum.
        labeled_first: whether there are no unlabeled patches before the first of `phases`.
        report: figures to log per epoch beside the losses (scalar tensors or floats), filled anew by each step.
    """

    views: tuple[str, ...] = ("weak",)
    presets: ClassVar[dict[str, dict[str, Any]]] = {"published": {}}
    phases: tuple[float, ...] = ()
    labeled_first: bool = False
    task: Task
    supervised: Callable[[Output, Tensor | list[Tensor]], Tensor]

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
    def hyperparameters(cls) -> dict[str, Any]:
        """All keyword arguments with their defaults, those of the methods that this one extends included."""
        found: dict[str, Any] = {}
        for parent in cls.__mro__:
            if issubclass(parent, Method) and "__init__" in vars(parent):
                for name, parameter in inspect.signature(parent.__init__).parameters.items():
                    if parameter.default is not inspect.Parameter.empty:
                        found.setdefault(name, parameter.default)
        return found


class RampedMethod(Method):
    """A method whose unsupervised terms share one weight that ramps up, w(r) = lambda exp(-5 (1 - r / rho)^2).

    Args:
        weight: lambda, weight of the unsupervised terms at the end of the ramp-up.
        rampup: rho, length of the ramp-up as a fraction of training; 0 for a constant weight.

    The medical code (SSL4MIS), which most medical tables rest on, has lambda = 0.1 beside half of cross-entropy + Dice.
    Beside nnU-Net's loss, the whole of both, that is 0.2, and so it is in the presets "published" that rest on it.

    Raises:
        ValueError: a value is out of range.
    """

    def __init__(self, weight: float = 0.1, rampup: float = 1.0):
        super().__init__()
        check_range("weight", weight, 0)
        check_range("rampup", rampup, 0, 1)
        self.weight = weight
        self.rampup = rampup

    def ramped_weight(self, now: Now) -> float:
        """w(r), also reported."""
        weight = self.weight * gaussian_rampup(now.fraction, self.rampup)
        self.report["unsupervised_weight"] = weight
        return weight


def check_range(name: str, value: float, low: float, high: float = float("inf")) -> None:
    """Raises ValueError unless low <= value <= high (NaN fails)."""
    if not low <= value <= high:
        raise ValueError(f"{name} = {value} is out of range: it must lie in [{low:g}, {high:g}]")
