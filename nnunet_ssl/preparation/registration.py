"""Labels of one slice carried through a volume, from slice to slice, by registration of the images in 2D."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

FINEST = 1.25  # mm; slices of larger voxels are registered with several for each
LEVELS = ((4, 30), (2, 30), (1, 20))  # how much smaller than the slice, and iterations there
SMOOTHING = 0.75  # of the displacements, in voxels
RADIUS = 3.75  # mm, of the opening of each class after each step


def carry(image: np.ndarray, labels: np.ndarray, axis: int, index: int, spacing: tuple[float, ...]) -> np.ndarray:
    """Labels of all slices along an axis, from those of one of them: each slice gets its neighbor's, deformed.

    Args:
        image: (*spatial), float, what is registered.
        labels: the annotated slice, (*spatial without the axis).
        axis, index: which slice it is.
        spacing: mm between voxels along each axis.

    Returns:
        (*spatial) in the type of the labels; the annotated slice is as it was.
    """
    low, high = np.percentile(image, (0.5, 99.5))
    slices = np.moveaxis(np.clip((image - low) / max(high - low, 1e-8), 0, 1) * 255, axis, 0).astype(np.float32)
    within = [size for number, size in enumerate(spacing) if number != axis]
    parts = [max(1, math.ceil(size / FINEST - 1e-6)) for size in within]
    fine = tuple(size / part for size, part in zip(within, parts, strict=True))
    carried = np.empty(slices.shape, labels.dtype)
    carried[index] = labels
    for way in (1, -1):
        at, image_here = index, refined(slices[index], parts)
        labels_here = by_class(labels, lambda mask: refined(mask, parts, order=1))
        while 0 <= at + way < len(slices):
            at += way
            if np.any(labels_here):
                image_before, image_here = image_here, refined(slices[at], parts)
                field = displacement(image_here, image_before, fine)
                labels_here = opened(deformed(labels_here, field), fine)
            carried[at] = by_class(labels_here, lambda mask: coarsened(mask, parts))
    return np.moveaxis(carried, 0, axis)


def refined(values: np.ndarray, parts: Sequence[int], order: int = 3) -> np.ndarray:
    """Each pixel of a slice as so many along each axis, interpolated by splines of an order."""
    if max(parts) == 1:
        return values
    places = [(np.arange(size * part) + 0.5) / part - 0.5 for size, part in zip(values.shape, parts, strict=True)]
    return ndimage.map_coordinates(values, np.meshgrid(*places, indexing="ij"), order=order, mode="nearest")


def coarsened(values: np.ndarray, parts: Sequence[int]) -> np.ndarray:
    """The means of what `refined` has made of each pixel."""
    (height, width), (down, right) = values.shape, parts
    return values.reshape(height // down, down, width // right, right).mean((1, 3))


def by_class(labels: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Labels of a slice, the mask of each class changed by itself; the largest one stands."""
    classes = np.unique(labels)
    masks = [change((labels == label).astype(np.float32)) for label in classes]
    return classes[np.argmax(masks, axis=0)].astype(labels.dtype)


def displacement(fixed: np.ndarray, moving: np.ndarray, spacing: tuple[float, ...]) -> sitk.DisplacementFieldTransform:
    """For each place of one slice, where in the other it is found: symmetric demons, from coarse to fine."""
    fixed, moving = (_image(array, spacing) for array in (fixed, moving))
    field = None
    for shrink, iterations in LEVELS:
        factors = [max(1, min(shrink, size // 16)) for size in fixed.GetSize()]
        small = [sitk.Shrink(sitk.DiscreteGaussian(each, (shrink / 2) ** 2, useImageSpacing=False), factors)
                 if shrink > 1 else each for each in (fixed, moving)]  # fmt: skip
        demons = sitk.FastSymmetricForcesDemonsRegistrationFilter()
        demons.SetNumberOfIterations(iterations)
        demons.SetSmoothDisplacementField(True)
        demons.SetStandardDeviations(SMOOTHING)
        demons.SetNumberOfThreads(1)
        start = [] if field is None else [sitk.Resample(field, small[0])]
        field = demons.Execute(*small, *start)
    return sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))


def deformed(labels: np.ndarray, transform: sitk.DisplacementFieldTransform) -> np.ndarray:
    """Labels of a slice at the places of its neighbor, interpolated linearly; nothing comes from beyond the slice."""
    spacing = tuple(reversed(transform.GetDisplacementField().GetSpacing()))

    def moved(mask: np.ndarray) -> np.ndarray:
        image = _image(mask, spacing)
        return sitk.GetArrayFromImage(sitk.Resample(image, image, transform, sitk.sitkLinear, 0.0))

    return by_class(labels, moved)


def opened(labels: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Each class without what no disk of `RADIUS` within it reaches, unless that is more than half of it.

    Nothing tells registration that a structure ends: where it tapers off, this does.
    """
    result = np.zeros_like(labels)
    for label in np.unique(labels[labels != 0]):
        mask = labels == label
        core = mask if mask.all() else ndimage.distance_transform_edt(mask, spacing) > RADIUS
        kept = mask & (ndimage.distance_transform_edt(~core, spacing) <= RADIUS) if core.any() else core
        result[kept if kept.sum() > mask.sum() / 2 else mask] = label
    return result


def _image(array: np.ndarray, spacing: tuple[float, ...]) -> sitk.Image:
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    image.SetSpacing([float(size) for size in reversed(spacing)])
    return image
