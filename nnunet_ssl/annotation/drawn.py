"""Label files as people draw them: one for each case, label maps or the segmentations of 3D Slicer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ssl.annotation.digest import SUGGESTED
from nnunet_ssl.data.headers import READ_ERRORS, file_fault
from nnunet_ssl.data.raw import listed
from nnunet_ssl.data.space import VoxelGrid, align, grid_of_image
from nnunet_ssl.data.strays import PICTURES, channel_file
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import is_clutter

ENDINGS = (".seg.nrrd", ".nii.gz", ".nii", ".nrrd", ".mha")
LAYERS = "holds several values per voxel and names no segments (colors?); save one label map"


@dataclass(frozen=True, eq=False)
class Drawn:
    """What a label file holds.

    Attributes:
        layers: (L, z, y, x), int64; segments of different layers may overlap.
        grid: where the voxels stand; None for a picture, which does not say it.
        segments: (layer, value) -> name, for a segmentation of 3D Slicer; None for a label map.
        is_part: whether it says of itself that it may be a part of the scan.
    """

    layers: np.ndarray
    grid: VoxelGrid | None
    segments: dict[tuple[int, int], str] | None
    is_part: bool

    def keys(self) -> dict[tuple[int, int], str]:
        """What each value of each layer is called: by its segment, else by the value itself; background is not."""
        if self.segments is not None:
            return self.segments
        return {(0, int(value)): str(value) for value in np.unique(self.layers) if value != 0}


def find_label_files(folder: Path, ending: str, cases: set[str]) -> tuple[dict[str, Path], list[str]]:
    """The label file of each case of a folder, and the names of what is no label file.

    Args:
        ending: of the dataset's files, which label files may have, too.
        cases: ids of the dataset; a file that is called like a scan of one of them is no label file.

    Raises:
        InputError: there is no such folder or no label file in it, or a case has two.
    """
    if not folder.is_dir():
        raise InputError(f"Folder {folder} does not exist: name the folder with the labels.")
    found: dict[str, list[Path]] = {}
    others = []
    endings = (*ENDINGS, ending)
    for entry in sorted(folder.iterdir()):
        own = next((each for each in endings if entry.name.lower().endswith(each)), None)
        scan = channel_file(entry.name, own) if own else None
        if is_clutter(entry.name):
            continue
        if own is None or entry.is_dir() or (scan and scan[1] in cases):
            others.append(entry.name)
        else:
            found.setdefault(entry.name[: -len(own)], []).append(entry)
    others = [
        name for name in others if name != SUGGESTED and name.removesuffix(".json") not in found
    ]  # TIFF's spacing
    if twice := [case for case, files in found.items() if len(files) > 1]:
        raise InputError(
            f"case {twice[0]} has {len(found[twice[0]])} label files in {folder}, "
            f"{listed([file.name for file in found[twice[0]]], separator=', ')}: leave the right one there."
            + (f" So have {listed(twice[1:], separator=', ')}." if twice[1:] else "")
        )
    if not found:
        seen = f" (only {listed(others, separator=', ')})" if others else ""
        raise InputError(
            f"No label files in {folder}{seen}: name them like their case, CASE.seg.nrrd or CASE{ending}, "
            "without a channel number."
        )
    return {case: files[0] for case, files in found.items()}, others


def read_drawn(file: Path, name: str) -> Drawn:
    """The voxels of a label file and what it says of them.

    Args:
        name: how messages name the file.

    Raises:
        InputError: it is damaged, or holds something else than labels of one volume.
    """
    if not file.is_file():
        raise InputError(f"{name}: is no file (a broken link?); replace it")
    if fault := file_fault(file):
        raise InputError(f"{name}: {fault}")
    try:
        image = sitk.ReadImage(str(file))
    except READ_ERRORS as error:
        raise InputError(f"{name}: is damaged, or no image; save or copy it again") from error
    if image.GetDimension() not in (2, 3):
        raise InputError(f"{name}: has {image.GetDimension()} axes; save one 3D file for each case")
    components = image.GetNumberOfComponentsPerPixel()
    segments = _segments(image, components, name)
    if components > 1 and segments is None:
        raise InputError(f"{name}: {LAYERS}")
    voxels = sitk.GetArrayFromImage(image)
    voxels = voxels[..., None] if components == 1 else voxels
    if image.GetDimension() == 2:
        voxels = voxels[None]
    whole = np.rint(voxels) if voxels.dtype.kind == "f" else voxels
    if not np.array_equal(whole, voxels):  # NaN among them
        odd = voxels[whole != voxels][0]
        raise InputError(
            f"{name}: holds {odd:g}, no whole number (interpolated, or a scan?); save the label map itself"
        )
    layers = np.moveaxis(whole, -1, 0).astype(np.int64)
    grid = None if file.name.lower().endswith(PICTURES) else _grid(image, layers.shape[1:])
    is_part = segments is not None and image.HasMetaDataKey("Segmentation_ReferenceImageExtentOffset")
    drawn = Drawn(layers, grid, segments, is_part)
    _check_named(drawn, name)
    return drawn


def on_scan(
    drawn: Drawn, scan: VoxelGrid, file: str, other: str, is_picture: bool = False
) -> tuple[np.ndarray, list[str]]:
    """The layers on the grid of the scan, (L, z, y, x), and what was done for it, in words.

    Axes in another order are turned; a part is put where it belongs, with background around it.

    Args:
        is_picture: the scan does not say where it stands, so that only the size is compared.

    Raises:
        InputError: they do not stand in one space (`nnunet_ssl.data.space`).
    """
    grid = None if is_picture else drawn.grid
    if grid is None:
        grid = VoxelGrid(drawn.layers.shape[1:], scan.steps, scan.origin)
    elif grid.shape[0] == scan.shape[0] == 1:  # how thick a 2D image is, every program makes up
        steps = np.column_stack((scan.steps[:, 0], grid.steps[:, 1:]))
        grid = VoxelGrid(grid.shape, steps, np.array([*grid.origin[:2], scan.origin[2]]))
    if drawn.is_part and grid.shape != scan.shape and (first := _place_of_part(grid, scan)) is not None:
        whole = np.zeros((len(drawn.layers), *scan.shape), drawn.layers.dtype)
        box = tuple(slice(start, start + size) for start, size in zip(first, grid.shape, strict=True))
        whole[(slice(None), *box)] = drawn.layers
        return whole, ["a part of the scan: background around it"]
    layers, difference = align(drawn.layers, grid, scan, file, other)
    return layers, ["turned: stored with other axes"] if difference.turned else []


def _segments(image: sitk.Image, components: int, name: str) -> dict[tuple[int, int], str] | None:
    """What 3D Slicer writes into the header of a `.seg.nrrd`; older ones give each segment a layer of its own."""
    numbers = sorted(
        int(match[1]) for key in image.GetMetaDataKeys() if (match := re.fullmatch(r"Segment(\d{1,5})_Name", key))
    )
    if not numbers:
        return None
    segments: dict[tuple[int, int], str] = {}
    for number in numbers:
        own = {"Layer": str(number), "LabelValue": "1"}
        own |= {
            key: image.GetMetaData(f"Segment{number}_{key}")
            for key in own
            if image.HasMetaDataKey(f"Segment{number}_{key}")
        }
        segment = image.GetMetaData(f"Segment{number}_Name").strip()
        if not all(re.fullmatch(r"\d{1,9}", text.strip()) for text in own.values()):
            raise InputError(f"{name}: the header of segment {segment!r} is damaged; save it again")
        place = int(own["Layer"]), int(own["LabelValue"])
        if place[0] >= components or place in segments or place[1] == 0:
            raise InputError(f"{name}: the header of segment {segment!r} points at no voxels of its own; save it again")
        segments[place] = segment
    return segments


def _check_named(drawn: Drawn, name: str) -> None:
    for layer, voxels in enumerate(drawn.layers if drawn.segments is not None else ()):
        values = {int(value) for value in np.unique(voxels)} - {0}
        if unnamed := sorted(values - {value for own, value in drawn.segments or () if own == layer}):
            raise InputError(
                f"{name}: has voxels of the value {unnamed[0]}, for which its header names no segment; save it again"
            )


def _grid(image: sitk.Image, shape: tuple[int, ...]) -> VoxelGrid:
    grid = grid_of_image(image)
    return VoxelGrid(tuple(shape), grid.steps, grid.origin)


def _place_of_part(grid: VoxelGrid, scan: VoxelGrid) -> list[int] | None:
    """The voxel of the scan at which a part of it begins; None if it is no part."""
    if not (grid.is_known() and scan.is_known()) or not np.allclose(grid.steps, scan.steps, rtol=1e-3, atol=1e-4):
        return None
    exact = np.linalg.solve(scan.steps, grid.origin - scan.origin)
    first = np.rint(exact)
    inside = (first >= 0).all() and (first + grid.shape <= scan.shape).all()
    return [int(start) for start in first] if inside and np.abs(exact - first).max() < 0.1 else None
