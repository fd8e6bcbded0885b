"""Labels of one slice carried through a volume, from slice to slice, by registration of the images in 2D."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

LEVELS = ((4, 30), (2, 30), (1, 20))  # how much smaller than the slice, and iterations there
SMOOTHING = 1.5  # of the displacements, in voxels
SQUARE = np.ones((5, 5), bool)  # opening and closing of each class after each step


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
    within = tuple(size for number, size in enumerate(spacing) if number != axis)
    carried = np.empty(slices.shape, labels.dtype)
    carried[index] = labels
    for way in (1, -1):
        at = index
        while 0 <= at + way < len(slices):
            if np.any(carried[at]):
                field = displacement(slices[at + way], slices[at], within)
                carried[at + way] = cleaned(deformed(carried[at], field))
            else:
                carried[at + way] = carried[at]
            at += way
    return np.moveaxis(carried, 0, axis)


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
    """Labels of a slice at the places of its neighbor: each class is interpolated linearly, the largest one stands."""
    spacing = tuple(reversed(transform.GetDisplacementField().GetSpacing()))
    classes = np.unique(labels)
    masks = [
        sitk.GetArrayFromImage(sitk.Resample(mask, mask, transform, sitk.sitkLinear, float(label == 0)))
        for label in classes
        for mask in [_image((labels == label).astype(np.float32), spacing)]
    ]
    return classes[np.argmax(masks, axis=0)].astype(labels.dtype)


def cleaned(labels: np.ndarray) -> np.ndarray:
    """Each class opened and closed with a square of 5 x 5; one that the opening would take away is not opened."""
    result = np.zeros_like(labels)
    for label in np.unique(labels[labels != 0]):
        mask = labels == label
        opened = ndimage.binary_opening(mask, SQUARE)
        mask = opened if opened.sum() > mask.sum() / 2 else mask
        padded = np.pad(mask, 2)  # closing must not erode what touches the border
        closed = ndimage.binary_closing(padded, SQUARE)[2:-2, 2:-2]
        result[(closed & (labels == 0)) | mask] = label
    return result


def _image(array: np.ndarray, spacing: tuple[float, ...]) -> sitk.Image:
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    image.SetSpacing([float(size) for size in reversed(spacing)])
    return image
