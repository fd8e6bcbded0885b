"""nnU-Net's changes of intensity for whole batches on the device, which make strong views of weak ones.

A core needs longer for them than for all else that an unlabeled patch costs; a GPU does not notice. They are taken over
from nnU-Net's own transforms, in their order, with their probabilities and ranges:

    who gets what     drawn on the host, from one generator: patch, then channel, then strength
    what it does      to all patches and channels together that are to have the change, on the device
    noise             drawn on the device, by a generator that the host's seeds anew for each use

So the host knows what there is to do and never waits for the device, and the state of one generator is all that a
checkpoint needs. From the same draws the result is nnU-Net's own but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform, _build_kernel
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from torch import Generator, Tensor
from torch.nn import functional as F

from nnunet_ssl.augmentation.intensity import spatial_axes
from nnunet_ssl.kinds import per_sample

SMALLEST = 1e-7  # nnU-Net's, of a range or deviation that something is divided by
BLUR_REACH = 6  # nnU-Net's, width of the kernel in standard deviations
LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True)
class Range:
    """Uniform between two numbers or, `halved`, as often below 1 as above."""

    low: float
    high: float
    halved: bool = False

    @classmethod
    def of(cls, scalar: Any) -> Range:
        """What nnU-Net draws a number from.

        Raises:
            NotImplementedError: a function of the user's.
        """
        if isinstance(scalar, int | float):
            return cls(scalar, scalar)
        if isinstance(scalar, BGContrast) and not callable(scalar.contrast_range):
            low, high = scalar.contrast_range
            return cls(low, high, halved=low < 1)
        if isinstance(scalar, tuple | list):
            return cls(*scalar)
        raise NotImplementedError(f"numbers drawn by {scalar!r}")

    def draw(self, shape: tuple[int, ...], generator: Generator) -> Tensor:
        share = torch.rand(shape, generator=generator)
        if not self.halved:
            return self.low + (self.high - self.low) * share
        below = torch.rand(shape, generator=generator) < 0.5
        above = max(self.low, 1)
        return torch.where(below, self.low + (1 - self.low) * share, above + (self.high - above) * share)


@dataclass(frozen=True)
class Chance:
    """1 with a probability, else 0."""

    probability: float

    def draw(self, shape: tuple[int, ...], generator: Generator) -> Tensor:
        return (torch.rand(shape, generator=generator) < self.probability).float()


@dataclass(frozen=True)
class Change:
    """One of nnU-Net's changes of intensity.

    Attributes:
        probability: that a patch gets it.
        per_channel: that a channel of such a patch gets it.
        together: whether the channels of a patch have the same strength.
        strengths: what is drawn for each.
        operation: of channels (R, 1, *spatial), their strengths (R, len(strengths)) on the host, and what noise is
            drawn from.
    """

    probability: float
    per_channel: float
    together: bool
    strengths: tuple[Range | Chance, ...]
    operation: Callable[[Tensor, Tensor, Generator], Tensor]

    def draw(self, patches: int, channels: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Which of patches x channels get it, as rows (R,), and how strongly, (R, len(strengths)).

        As many numbers are drawn whatever comes of them.
        """
        chosen = torch.rand((patches, 1), generator=generator) < self.probability
        chosen = chosen & (torch.rand((patches, channels), generator=generator) < self.per_channel)
        shape = patches, 1 if self.together else channels
        drawn = torch.stack([strength.draw(shape, generator) for strength in self.strengths], -1)
        return chosen.flatten().nonzero()[:, 0], drawn.expand(patches, channels, -1)[chosen]


class StrongViews:
    """Makes strong views.

    Args:
        transforms: nnU-Net's changes of intensity.
        axes: of a patch.
        channels: of an image; those behind them, one-hot labels of a cascade's first stage, are left as they are.
        masked: channels in which nnU-Net leaves what is 0 outside of the object, after all changes.
        generator: of the host.
        device: of the patches.

    Raises:
        NotImplementedError: a transform is none of nnU-Net's default augmentation; names it.
    """

    def __init__(
        self,
        transforms: Sequence[BasicTransform],
        axes: int,
        channels: int,
        masked: Sequence[int],
        generator: Generator,
        device: torch.device,
    ):
        self.changes = [change_of(transform, axes) for transform in transforms]
        self.channels = channels
        self.masked = masked
        self.generator = generator
        self.noise = Generator(device)

    @torch.no_grad()
    def __call__(self, weak: Tensor) -> Tensor:
        """Patches (B, channels, *spatial) changed; the given ones stay."""
        image, others = weak.tensor_split([self.channels], 1)
        patches, channels = image.shape[:2]
        changed = image.flatten(0, 1)[:, None].clone()
        for change in self.changes:
            rows, strengths = change.draw(patches, channels, self.generator)
            self.noise.manual_seed(int(torch.randint(2**62, (), generator=self.generator)))
            if len(rows):
                rows = rows.to(weak.device, non_blocking=True)
                changed[rows] = change.operation(changed[rows], strengths, self.noise)
        changed = changed.view_as(image)
        for channel in self.masked:
            changed[:, channel] = torch.where(image[:, channel] == 0, 0, changed[:, channel])
        return torch.cat((changed, others), 1) if others.shape[1] else changed


def change_of(transform: BasicTransform, axes: int) -> Change:
    """What one of nnU-Net's transforms does to patches of so many axes.

    Raises:
        NotImplementedError: it is none of those of nnU-Net's default augmentation.
    """
    inner, probability = transform, 1.0
    if isinstance(transform, RandomTransform):
        inner, probability = transform.transform, transform.apply_probability
    if isinstance(inner, GaussianNoiseTransform):
        strengths, operation = (Range.of(inner.noise_variance),), noise  # nnU-Net's name for a deviation
    elif isinstance(inner, GaussianBlurTransform):
        strengths, operation = _along_axes(inner.blur_sigma, axes, inner.synchronize_axes), blur
    elif isinstance(inner, MultiplicativeBrightnessTransform):
        strengths, operation = (Range.of(inner.multiplier_range),), brightness
    elif isinstance(inner, ContrastTransform):
        strengths, operation = (Range.of(inner.contrast_range),), partial(contrast, within=inner.preserve_range)
    elif isinstance(inner, SimulateLowResolutionTransform) and inner.allowed_channels is None:
        strengths = _along_axes(inner.scale, axes, inner.synchronize_axes)
        operation = partial(low_resolution, untouched=tuple(inner.ignore_axes or ()))
    elif isinstance(inner, GammaTransform):
        strengths = Range.of(inner.gamma), Chance(inner.p_invert_image), Chance(inner.p_retain_stats)
        operation = gamma
    else:
        raise NotImplementedError(f"{type(inner).__name__} on the device")
    return Change(probability, inner.p_per_channel, inner.synchronize_channels, strengths, operation)


def _along_axes(scalar: Any, axes: int, together: bool) -> tuple[Range, ...]:
    return (Range.of(scalar),) * (1 if together else axes)


# Each takes channels (R, 1, *spatial) and their strengths; see `Change.operation`.


def noise(image: Tensor, strengths: Tensor, generator: Generator) -> Tensor:
    """Adds Gaussian noise of a standard deviation."""
    return image + _beside(strengths[:, 0], image) * torch.empty_like(image).normal_(generator=generator)


def blur(image: Tensor, strengths: Tensor, _: Generator) -> Tensor:
    """Smooths by a Gaussian, cut off as nnU-Net's, of a standard deviation in voxels along each axis; ends reflect."""
    axes = image.ndim - 2
    kernels = [[_build_kernel(sigma, BLUR_REACH) for sigma in row.expand(axes).tolist()] for row in strengths]
    reach = max(len(kernel) for row in kernels for kernel in row) // 2
    wide = [torch.stack([F.pad(kernel, [reach - len(kernel) // 2] * 2) for kernel in row]) for row in kernels]
    weights = torch.stack(wide).to(image.device, non_blocking=True)
    for axis in range(axes):
        pads = [reach * (axis == other) for other in reversed(range(axes)) for _ in range(2)]
        padded = F.pad(image, pads, mode="reflect")
        shifted = (padded.narrow(axis + 2, start, image.shape[axis + 2]) for start in range(2 * reach + 1))
        image = sum(part * per_sample(weights[:, axis, at], image) for at, part in enumerate(shifted))
    return image


def brightness(image: Tensor, strengths: Tensor, _: Generator) -> Tensor:
    """Multiplies."""
    return image * _beside(strengths[:, 0], image)


def contrast(image: Tensor, strengths: Tensor, _: Generator, within: bool) -> Tensor:
    """Stretches about the mean, and cuts at the extremes if it is to stay within them."""
    mean = image.mean(spatial_axes(image), keepdim=True)
    changed = mean + _beside(strengths[:, 0], image) * (image - mean)
    return changed.clamp(*_extremes(image)) if within else changed


def low_resolution(image: Tensor, strengths: Tensor, _: Generator, untouched: tuple[int, ...]) -> Tensor:
    """Takes the nearest of a share of the voxels along each axis, then interpolates linearly back to the grid."""
    spatial = image.shape[2:]
    rows = []
    for row, shares in zip(image, strengths.expand(-1, len(spatial)).tolist(), strict=True):
        kept = [1 if axis in untouched else share for axis, share in enumerate(shares)]
        fewer = [max(1, round(size * share)) for size, share in zip(spatial, kept, strict=True)]
        coarse = F.interpolate(row[None], fewer, mode="nearest-exact")
        rows.append(F.interpolate(coarse, spatial, mode=LINEAR[len(spatial)]))
    return torch.cat(rows)


def gamma(image: Tensor, strengths: Tensor, _: Generator) -> Tensor:
    """Raises what is scaled to [0, 1] to a power; of -x where inverted; mean and deviation stay where kept."""
    power, inverted, kept = (_beside(column, image) for column in strengths.T)
    sign = 1 - 2 * inverted
    image = image * sign
    low, high = _extremes(image)
    span = high - low
    changed = ((image - low) / span.clamp_min(SMALLEST)) ** power * span + low
    axes = spatial_axes(image)
    scale = image.std(axes, keepdim=True) / changed.std(axes, keepdim=True).clamp_min(SMALLEST)
    as_before = (changed - changed.mean(axes, keepdim=True)) * scale + image.mean(axes, keepdim=True)
    return sign * torch.where(kept > 0, as_before, changed)


def _beside(values: Tensor, image: Tensor) -> Tensor:
    """Of each row (R,), from the host, to be broadcast over its voxels."""
    return per_sample(values.to(image.device, non_blocking=True), image)


def _extremes(image: Tensor) -> tuple[Tensor, Tensor]:
    axes = spatial_axes(image)
    return image.amin(axes, keepdim=True), image.amax(axes, keepdim=True)
