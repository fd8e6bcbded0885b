"""Three planes of a case through the place where the model is most unsure, as a reader of scans sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ssl.data.space import VoxelGrid, grid_of, nearest_axes, turn

# first axis up, second to the back, third to the left: the patient's right is on the left of a picture
UPRIGHT = VoxelGrid((1, 1, 1), np.eye(3)[:, ::-1], np.zeros(3))
ANATOMICAL = ("axial", "coronal", "sagittal")
STORED = ("slice along z", "slice along y", "slice along x")  # of formats that do not say how a patient lies
NEARBY = 2  # voxels


@dataclass(frozen=True)
class Plane:
    """One slice.

    Attributes:
        image: 0..255, (rows, columns), as all three.
        segmentation: labels.
        uncertainty: 0..255.
        size: mm between rows and between columns.
    """

    name: str
    image: np.ndarray
    segmentation: np.ndarray
    uncertainty: np.ndarray
    size: tuple[float, float]


def three_planes(
    image: np.ndarray,
    segmentation: np.ndarray,
    uncertainty: np.ndarray,
    properties: Mapping[str, Any],
    plans: PlansManager,
) -> tuple[list[Plane], str]:
    """The planes, one alone in 2D data, and where they cross, in words.

    Args:
        image: a channel on the training grid, (*spatial), as the other two.
        properties: nnU-Net's, of the preprocessed case.
    """
    back = plans.transpose_backward
    volumes = [volume.transpose(back) for volume in (image, segmentation, uncertainty)]
    shape = tuple(properties["shape_before_cropping"][axis] for axis in back)
    box = [properties["bbox_used_for_cropping"][axis] for axis in back]
    grid = grid_of(shape, properties)
    fine = [(high - low) / size for (low, high), size in zip(box, volumes[0].shape, strict=True)]  # scan per training
    flat = 1 in shape
    known = not flat and bool({"sitk_stuff", "nibabel_stuff"} & properties.keys()) and grid.is_known()
    order, flips = nearest_axes(grid, UPRIGHT) if known else ((0, 1, 2), (1, 1, 1))
    image, segmentation, uncertainty = (turn(volume, order, flips) for volume in volumes)
    sizes = [properties["spacing"][axis] * fine[axis] for axis in order]
    point = most_uncertain(uncertainty)
    low, high = np.percentile(image, (0.5, 99.5))
    planes = []
    for axis, name in enumerate(ANATOMICAL if known else STORED):
        if flat and image.shape[axis] > 1:
            continue
        upright = (slice(None, None, -1) if known and axis else slice(None),)  # the head is up
        cut = [volume.take(point[axis], axis)[upright] for volume in (image, segmentation, uncertainty)]
        gray = (np.clip((cut[0] - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)
        size = tuple(float(size) for other, size in enumerate(sizes) if other != axis)
        planes.append(Plane("slice" if flat else name, gray, *cut[1:], size))
    return planes, _in_words(_in_scan(point, order, flips, image.shape, box, fine), grid, known)


def most_uncertain(uncertainty: np.ndarray) -> tuple[int, int, int]:
    """A voxel in the thick of the most uncertain slice along the first axis; the middle where nothing is uncertain."""
    if not uncertainty.any():
        return tuple(size // 2 for size in uncertainty.shape)
    first = int(uncertainty.sum((1, 2), dtype=np.int64).argmax())
    second = int(uncertainty[first].sum(1, dtype=np.int64).argmax())
    rows = uncertainty[first, max(second - NEARBY, 0) : second + NEARBY + 1]
    return first, second, int(rows.sum(0, dtype=np.int64).argmax())


def _in_scan(
    point: Sequence[int], order: Sequence[int], flips: Sequence[int], shape: Sequence[int], box: Any, fine: Any
) -> list[int]:
    """The voxel of the scan, along its own axes, that a voxel of the turned training grid lies in."""
    place = [0, 0, 0]
    for index, axis, flip, size in zip(point, order, flips, shape, strict=True):
        along = index if flip > 0 else size - 1 - index
        place[axis] = int(box[axis][0] + (along + 0.5) * fine[axis])
    return place


def _in_words(place: Sequence[int], grid: VoxelGrid, known: bool) -> str:
    voxel = ", ".join(str(index) for index in reversed(place))
    if not known:
        return f"voxel (x, y, z) = ({voxel}), counted from 0"
    left, back, up = grid.origin + grid.steps @ np.array(place)
    letters = zip((left, back, up), ("LR", "PA", "SI"), strict=True)
    mm = ", ".join(f"{pair[int(value < 0)]} {abs(value):.0f}" for value, pair in letters)
    return f"{mm} mm (voxel x, y, z = {voxel}, counted from 0)"
