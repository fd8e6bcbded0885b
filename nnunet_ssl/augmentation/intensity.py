"""Changes of intensity on the device: each takes images (B, channels, *spatial) and a level in [0, 1] per image, (B,).

The kinds of nnU-Net's own augmentation at about twice its strength, and three that it leaves out. Images are normalized
as nnU-Net does; x is a voxel, mean and extremes are those of its channel.

    operation        effect                                        level 0 .. 1           nnU-Net
    brightness       m x                                           m = 0.5 .. 1.5         0.75 .. 1.25
    shift            x + a                                         a = -0.5 .. 0.5
    contrast         mean + m (x - mean), cut at the extremes      m = 0.5 .. 1.5         0.75 .. 1.25
    gamma            x scaled to [0, 1], to the power of g         g = 0.5 .. 2           0.7 .. 1.5
    inverted_gamma   the same of -x                                g = 0.5 .. 2           0.7 .. 1.5
    noise            x + n, n ~ N(0, s)                            s = 0 .. 0.2           0 .. 0.1
    blur             Gaussian of s voxels                          s = 0.1 .. 1.5         0.5 .. 1
    low_resolution   a share s of the voxels along each axis       s = 1 .. 0.25          1 .. 0.5
    sharpen          x + a (x - blurred by 1 voxel)                a = 0 .. 2
    cutout           a box becomes the mean, side s of the patch   s = 0 .. 0.5

None moves anything: what is true of a voxel stays true. None waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from nnunet_ssl.kinds import per_sample

Operation = Callable[[Tensor, Tensor], Tensor]
MAX_BLUR = 1.5
BLUR_RADIUS = math.ceil(3 * MAX_BLUR)


def brightness(image: Tensor, level: Tensor) -> Tensor:
    """Multiplies."""
    return image * per_sample(0.5 + level, image)


def shift(image: Tensor, level: Tensor) -> Tensor:
    """Adds."""
    return image + per_sample(level - 0.5, image)


def contrast(image: Tensor, level: Tensor) -> Tensor:
    """Stretches about the mean within the range of each channel."""
    axes = spatial_axes(image)
    mean = image.mean(axes, keepdim=True)
    changed = mean + per_sample(0.5 + level, image) * (image - mean)
    return changed.clamp(image.amin(axes, keepdim=True), image.amax(axes, keepdim=True))


def gamma(image: Tensor, level: Tensor) -> Tensor:
    """Raises to a power; mean and standard deviation of each channel stay."""
    axes = spatial_axes(image)
    low, high = image.amin(axes, keepdim=True), image.amax(axes, keepdim=True)
    unit = (image - low) / (high - low).clamp_min(1e-7)
    changed = unit ** per_sample(2 ** (2 * level - 1), image)
    changed = (changed - changed.mean(axes, keepdim=True)) / changed.std(axes, keepdim=True).clamp_min(1e-7)
    return changed * image.std(axes, keepdim=True) + image.mean(axes, keepdim=True)


def inverted_gamma(image: Tensor, level: Tensor) -> Tensor:
    """Raises the inverted image to a power."""
    return -gamma(-image, level)


def noise(image: Tensor, level: Tensor) -> Tensor:
    """Adds Gaussian noise, drawn for each voxel and channel."""
    return image + per_sample(0.2 * level, image) * torch.randn_like(image)


def cut_noise(image: Tensor, deviation: float) -> Tensor:
    """x + eps, eps ~ N(0, deviation^2) cut at twice the deviation, as in the code of Mean Teacher and UA-MT."""
    return image + (deviation * torch.randn_like(image)).clamp_(-2 * deviation, 2 * deviation)


def blur(image: Tensor, level: Tensor) -> Tensor:
    """Smooths."""
    return gaussian(image, 0.1 + (MAX_BLUR - 0.1) * level)


def low_resolution(image: Tensor, level: Tensor) -> Tensor:
    """Takes the nearest of fewer voxels, then interpolates linearly back to the grid."""
    for axis in spatial_axes(image):
        size = image.shape[axis]
        fewer = (size * (1 - 0.75 * level)).round().clamp_min(1)[:, None]  # along the axis, for each image
        at = ((torch.arange(size, device=image.device) + 0.5) * fewer / size - 0.5).clamp_min(0)
        below = at.floor()
        above = torch.minimum(below + 1, fewer - 1)
        first, second = (_along(image, axis, ((low + 0.5) * size / fewer).long()) for low in (below, above))
        image = torch.lerp(first, second, _on_axis(at - below, image, axis))
    return image


def sharpen(image: Tensor, level: Tensor) -> Tensor:
    """Adds what smoothing takes away."""
    return image + per_sample(2 * level, image) * (image - gaussian(image, torch.ones_like(level)))


def cutout(image: Tensor, level: Tensor) -> Tensor:
    """Flattens a box, the same for all channels, whose center is uniform over the patch: a part may lie outside."""
    inside = torch.ones_like(image[:, :1], dtype=torch.bool)
    for axis in spatial_axes(image):
        size = image.shape[axis]
        center = size * torch.rand_like(level)[:, None]
        distance = (torch.arange(size, device=image.device) + 0.5 - center).abs()
        inside = inside & _on_axis(distance < 0.25 * size * level[:, None], image, axis)
    return torch.where(inside, image.mean(spatial_axes(image), keepdim=True), image)


OPERATIONS: dict[str, Operation] = {
    operation.__name__: operation
    for operation in (
        brightness, shift, contrast, gamma, inverted_gamma, noise, blur, low_resolution, sharpen, cutout
    )
}  # fmt: skip


def gaussian(image: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur with a standard deviation in voxels, at most 1.5, per image (B,); borders are repeated."""
    offsets = torch.arange(-BLUR_RADIUS, BLUR_RADIUS + 1, device=image.device)
    weights = (-0.5 * (offsets / sigma[:, None]).square()).softmax(1)
    for axis in spatial_axes(image):
        pads = [BLUR_RADIUS * (axis == other) for other in reversed(spatial_axes(image)) for _ in range(2)]
        padded = F.pad(image, pads, mode="replicate")
        shifted = (padded.narrow(axis, start, image.shape[axis]) for start in range(len(offsets)))
        image = sum(part * per_sample(weight, image) for part, weight in zip(shifted, weights.T, strict=True))
    return image


def spatial_axes(image: Tensor) -> tuple[int, ...]:
    return tuple(range(2, image.ndim))


def _on_axis(values: Tensor, image: Tensor, axis: int) -> Tensor:
    """Values (B, n) along an axis, shaped to broadcast over the image."""
    return values.view(len(values), *(-1 if other == axis else 1 for other in range(1, image.ndim)))


def _along(image: Tensor, axis: int, index: Tensor) -> Tensor:
    """The voxels that `index` (B, n) names along an axis, of each image its own."""
    return torch.take_along_dim(image, _on_axis(index, image, axis), axis)
