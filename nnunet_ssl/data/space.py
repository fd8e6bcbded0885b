"""Whether two images stand in one space: the one rule for predictions, labels and channels.

Two images stand in one space if no corner of the one's voxel grid lies :data:`TOLERANCE` voxels or more from where the
other has it, so origin, direction, spacing and size are judged by what they do to voxels. Axes stored in another order
or direction, with a header that says so, are turned first, which moves whole voxels and interpolates nothing. Nothing
else is brought together: who means it has to resample.

Formats without geometry (PNG, BMP, TIFF) stand where their indices say, times the spacing if there is one: their arrays
are compared as they are.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk

from nnunet_ssl.errors import InputError

TOLERANCE = 0.1  # voxels
ROUNDING = 1e-3  # voxels; what single precision leaves of one and the same header, not worth a word
AXES = [(order, flips) for order in itertools.permutations(range(3)) for flips in itertools.product((1, -1), repeat=3)]
ADVICE = "pair the right files, or resample one to the grid of the other"
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # nibabel's x and y axes point the other way


@dataclass(frozen=True, eq=False)
class VoxelGrid:
    """Where the voxels of an array ``(z, y, x)`` stand.

    Attributes:
        shape: voxels along each axis.
        steps: ``(3, 3)``; column ``i`` leads from a voxel to the next one along axis ``i``, in mm to the left, to the
            back and up (ITK's LPS).
        origin: ``(3,)``, the center of the first voxel, in mm.
    """

    shape: tuple[int, ...]
    steps: np.ndarray
    origin: np.ndarray

    @property
    def spacing(self) -> np.ndarray:
        """mm along each axis of the array."""
        return np.linalg.norm(self.steps, axis=0)

    def is_known(self) -> bool:
        """Whether this says where voxels stand: finite, and three axes of a volume."""
        finite = np.isfinite(self.steps).all() and np.isfinite(self.origin).all()
        return bool(finite) and np.linalg.matrix_rank(self.steps) == 3

    def corners(self) -> np.ndarray:
        """``(8, 3)`` in mm, the outer corners of the corner voxels, in the order of the array's axes."""
        ends = itertools.product(*[(-0.5, size - 0.5) for size in self.shape])
        return np.array(list(ends)) @ self.steps.T + self.origin

    def turned(self, order: Sequence[int], flips: Sequence[int]) -> "VoxelGrid":
        """The grid of the array that :func:`turn` makes."""
        shape, steps = tuple(self.shape[axis] for axis in order), self.steps[:, order]
        first = np.where(np.array(flips) < 0, np.array(shape) - 1, 0)  # what becomes voxel 0
        return VoxelGrid(shape, steps * flips, self.origin + steps @ first)


@dataclass(frozen=True)
class Difference:
    """How an image was stored differently from the one whose space it shares: other axes; the rest as displacement."""

    turned: bool = False
    voxels: float = 0.0
    mm: float = 0.0


def grid_of(shape: Sequence[int], properties: Mapping[str, Any]) -> VoxelGrid:
    """The grid of an array ``(z, y, x)`` that one of nnU-Net's readers made, from the properties that it gave."""
    if "sitk_stuff" in properties:
        stored = properties["sitk_stuff"]
        return _itk_grid(shape, stored["spacing"], stored["origin"], stored["direction"])
    if "nibabel_stuff" in properties:
        stored = properties["nibabel_stuff"]
        affine = LPS @ stored.get("reoriented_affine", stored["original_affine"])
        return VoxelGrid(tuple(shape), affine[:3, 2::-1], affine[:3, 3])
    return VoxelGrid(tuple(shape), np.diag(np.array(properties["spacing"], float)), np.zeros(3))


def grid_of_image(image: sitk.Image) -> VoxelGrid:
    """The grid of a scalar 3D image."""
    return _itk_grid(image.GetSize()[::-1], image.GetSpacing(), image.GetOrigin(), image.GetDirection())


def align(voxels: np.ndarray, grid: VoxelGrid, onto: VoxelGrid, file: str, other: str) -> tuple[np.ndarray, Difference]:
    """Brings the array of one image onto the grid of another by turning its axes.

    Args:
        voxels: ``(..., z, y, x)`` on ``grid``.
        onto: the grid that the array is wanted on.
        file: how messages name the image.
        other: how messages name the image of ``onto``.

    Returns:
        The array on ``onto`` (a view of ``voxels``), and how it was stored differently.

    Raises:
        InputError: the images do not stand in one space; one line that names both and what differs, in voxels of
            ``onto`` and mm.
    """
    if _equal(grid, onto):
        return voxels, Difference()
    for one, name in ((grid, file), (onto, f"{file} cannot be placed: {other}")):
        if not one.is_known():
            raise InputError(f"{name} has a header that does not say where its voxels stand; mend it")
    way = nearest_axes(grid, onto)
    if grid.turned(*way).shape != onto.shape:
        way = AXES[0]  # nothing will fit: the message speaks of the file as it is
    turned = grid.turned(*way)
    if turned.shape != onto.shape:
        raise InputError(f"{file} has {_size(turned)} but {other} {_size(onto)}; {ADVICE}")
    off, mm = _displacement(turned, onto)
    if off >= TOLERANCE:
        what = _what_differs(turned, onto)
        raise InputError(f"{file} stands up to {off:.3g} voxels ({mm:.3g} mm) from {other}: another {what}; {ADVICE}")
    return turn(voxels, *way), Difference(way != AXES[0], off, mm)


def turn(voxels: np.ndarray, order: Sequence[int], flips: Sequence[int]) -> np.ndarray:
    """The last three axes in another order, then mirrored where ``flips`` is -1; a view."""
    before = voxels.ndim - 3
    turned = voxels.transpose(*range(before), *(before + axis for axis in order))
    return turned[(..., *(slice(None, None, flip) for flip in flips))]


def summarize(differences: Mapping[str, Difference]) -> dict[str, Any]:
    """Which cases were turned, which have another header within the tolerance and by how much at most; for JSON."""
    moved = {case: each for case, each in differences.items() if each.voxels >= ROUNDING}
    return {
        "turned": [case for case, each in differences.items() if each.turned],
        "other_header": list(moved),
        "largest_voxels": max((each.voxels for each in moved.values()), default=0.0),
        "largest_mm": max((each.mm for each in moved.values()), default=0.0),
    }


def in_words(summary: Mapping[str, Any], what: str, other: str) -> list[str]:
    """What :func:`summarize` found, one sentence for each kind; none where nothing differs."""
    lines = []
    if turned := len(summary["turned"]):
        lines.append(
            f"In {turned} case(s) {what} is stored with other axes than {other}: turned, nothing was interpolated."
        )
    if moved := len(summary["other_header"]):
        lines.append(
            f"In {moved} case(s) the header of {what} is not that of {other}, at most {summary['largest_voxels']:.2g} "
            f"voxels ({summary['largest_mm']:.2g} mm) off: that of {other} is taken."
        )
    return lines


def worst(differences: Sequence[Difference]) -> Difference:
    """One for all images of a case."""
    return Difference(
        any(each.turned for each in differences),
        max((each.voxels for each in differences), default=0.0),
        max((each.mm for each in differences), default=0.0),
    )


def nearest_axes(grid: VoxelGrid, onto: VoxelGrid) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The order and the flips that make axes point most nearly where those of ``onto`` do; as they are in a tie."""
    cosines = (onto.steps / onto.spacing).T @ (grid.steps / grid.spacing)
    return max(AXES, key=lambda way: (cosines[range(3), way[0]] * way[1]).sum())


def _itk_grid(
    shape: Sequence[int], spacing: Sequence[float], origin: Sequence[float], direction: Sequence[float]
) -> VoxelGrid:
    """A 2D image is one slice of a volume; what a 4D image has beyond a volume is left out."""
    given = min(len(spacing), 3)
    steps, place = np.eye(3), np.zeros(3)
    steps[:given, :given] = np.reshape(direction, (len(spacing),) * 2)[:given, :given] * spacing[:given]
    place[:given] = origin[:given]
    return VoxelGrid(tuple(shape), steps[:, ::-1], place)


def _equal(one: VoxelGrid, other: VoxelGrid) -> bool:
    return one.shape == other.shape and all(
        np.array_equal(getattr(one, name), getattr(other, name), equal_nan=True) for name in ("steps", "origin")
    )


def _displacement(grid: VoxelGrid, onto: VoxelGrid) -> tuple[float, float]:
    """How far the corner that is farthest off lies from where it should: voxels of ``onto``, and mm."""
    off = grid.corners() - onto.corners()
    voxels = np.linalg.solve(onto.steps, off.T)
    return float(np.linalg.norm(voxels, axis=0).max()), float(np.linalg.norm(off, axis=1).max())


def _what_differs(grid: VoxelGrid, onto: VoxelGrid) -> str:
    """Names what moves a corner by the tolerance or more, of two grids of one shape."""
    sizes, found = np.array(onto.shape), []
    if (np.abs(grid.spacing / onto.spacing - 1) * sizes >= TOLERANCE).any():
        found.append(f"spacing, {_numbers(grid.spacing)} mm and not {_numbers(onto.spacing)}")
    aside = np.linalg.solve(onto.steps, grid.steps / grid.spacing * onto.spacing) - np.eye(3)
    if (np.linalg.norm(aside, axis=0) * sizes >= TOLERANCE).any():
        found.append("direction")
    if np.linalg.norm(np.linalg.solve(onto.steps, grid.origin - onto.origin)) >= TOLERANCE or not found:
        found.append("origin")
    return ", another ".join(found)


def _size(grid: VoxelGrid) -> str:
    return f"{_numbers(grid.shape)} voxels ({_numbers(grid.shape * grid.spacing)} mm)"


def _numbers(values: Sequence[float]) -> str:
    """In the order x, y, z, as headers have them."""
    return " x ".join(f"{value:.4g}" for value in reversed(values))
