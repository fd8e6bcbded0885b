"""Pancreas-CT: the pancreas in CT (Roth et al., NIH, TCIA 2016).

Read are the DICOM series below ``PANCREAS_0001`` and so on and the labels ``label0001.nii.gz``. The headers of the
labels are not reliable: a label is turned by its header if that then names the grid of the image, and otherwise the
flip is taken that puts it into soft tissue. The spacing between slices is that of their positions.

Cases 25 and 70 were withdrawn from the release in 2020: they are the scan of case 2 with another field of view.
"""

import re
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ssl.data.conversion import Conversion, pair_cases
from nnunet_ssl.data.protocols import Labeled, choose
from nnunet_ssl.data.raw import listed
from nnunet_ssl.data.sources import DAMAGED, NIFTI, find_files, read_volume, require_whole, with_geometry
from nnunet_ssl.data.space import align, grid_of_image
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import is_clutter

WITHDRAWN = ("PANCREAS_0025", "PANCREAS_0070")
SOFT_TISSUE = (-50, 200)  # HU


def pancreas_conversion(source: Path, labeled: Labeled = None, keep_withdrawn: bool = False) -> Conversion:
    """Finds the scans of the Pancreas-CT data set.

    Args:
        source: a folder with the scans and the labels in or below it.
        labeled: which scans are labeled; None for ``mc-net-12``, the first 12.
        keep_withdrawn: uses cases 25 and 70 where the source has them.

    Raises:
        InputError: no scans in ``source``; scans or labels of the lists missing or present twice.
    """
    images = _find_series(source)
    labels = find_files(source, rf"label(?P<id>\d{{4}}){NIFTI}")
    if not images:
        raise InputError(f"No Pancreas-CT scans in {source}: expected DICOM files in folders PANCREAS_0001 and so on.")
    choice = choose(
        "pancreas",
        labeled,
        default="mc-net-12",
        keep=lambda name: keep_withdrawn or name not in WITHDRAWN,
        because="withdrawn from the release, copies of PANCREAS_0002; the first labeled cases are counted without them",
    )
    choice.require(images, source)
    notes = choice.notes + choice.unused(images)
    if keep_withdrawn:
        notes.append("PANCREAS_0002, PANCREAS_0025 and PANCREAS_0070 are the same scan, in training and in test.")
    return Conversion(
        converter="pancreas",
        channels=("CT",),
        labels={"background": 0, "pancreas": 1},
        cases=pair_cases(choice.parts, images, {f"PANCREAS_{number}": path for number, path in labels.items()}),
        read_image=read_series,
        read_label=read_volume,
        source={"path": str(source), "layout": "TCIA: DICOM series and NIfTI labels"},
        protocol={**choice.record, "withdrawn cases": "kept" if keep_withdrawn else "left out"},
        warnings=notes,
        name="Pancreas",
        fit_label=fit_label,
    )


def read_series(folder: Path) -> sitk.Image:
    """A CT image in HU from the one DICOM series of a folder, its slices ordered and spaced by their positions.

    Raises:
        InputError: no series or several, unreadable, or slices that are not evenly spaced.
    """
    series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if len(series) != 1:
        raise InputError(f"{folder} holds {len(series)} DICOM series, not one; fetch it again")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder), series[0]))
    reader.MetaDataDictionaryArrayUpdateOn()
    try:
        for file in reader.GetFileNames():
            require_whole(Path(file))
        image = reader.Execute()
        slices = range(len(reader.GetFileNames()))
        positions = np.array([reader.GetMetaData(z, "0020|0032").split("\\") for z in slices], dtype=float)
    except (RuntimeError, MemoryError, ValueError) as error:
        raise InputError(f"{folder} {DAMAGED} ({str(error).splitlines()[-1]})") from error
    distances = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    if not np.allclose(distances, np.median(distances), rtol=0.01, atol=0.01):
        raise InputError(
            f"{folder} has slices {distances.min():g} to {distances.max():g} mm apart (one missing?); fetch it again"
        )
    return image


def fit_label(label: sitk.Image, image: sitk.Image, path: Path) -> sitk.Image:
    """The label on the grid of its image: turned by its header, or by the flip that puts it into soft tissue.

    Raises:
        InputError: another shape, or no flip puts the median of the labeled voxels into soft tissue.
    """
    stored = sitk.GetArrayFromImage(label)
    try:
        candidates = [align(stored, grid_of_image(label), grid_of_image(image), str(path), "its scan")[0]]
    except InputError:
        if label.GetSize() != image.GetSize():
            raise
        candidates = [np.flip(stored, axes) for axes in ((), (0,), (1,), (0, 1))]  # z, y, and both
    voxels = sitk.GetArrayViewFromImage(image)
    labeled_voxels = [voxels[candidate != 0] for candidate in candidates]
    if not labeled_voxels[0].size:
        raise InputError(f"{path} is empty; replace it")
    low, high = SOFT_TISSUE
    shares = [np.mean((found > low) & (found < high)) for found in labeled_voxels]
    best = int(np.argmax(shares))
    median = np.median(labeled_voxels[best])
    if not low < median < high:
        raise InputError(f"{path} does not lie in soft tissue (median {median:g} HU, any flip); pair the right files")
    return with_geometry(np.ascontiguousarray(candidates[best]), image)


def _find_series(source: Path) -> dict[str, Path]:
    """The folder of the DICOM files by case; a case whose folder is empty (a withdrawn one) is not there."""
    # One file of each series folder stands for it.
    if not source.is_dir():
        raise InputError(f"SOURCE {source} is no folder.")
    found: dict[str, set[Path]] = {}
    for path in source.rglob("*"):
        cases = [part for part in path.parts if re.fullmatch(r"PANCREAS_\d{4}", part)]
        if cases and path.is_file() and not is_clutter(path.name) and path.suffix in ("", ".dcm"):
            found.setdefault(cases[-1], set()).add(path.parent)
    if twice := {name: sorted(folders) for name, folders in found.items() if len(folders) > 1}:
        places = listed([f"{name} ({', '.join(map(str, folders))})" for name, folders in twice.items()])
        raise InputError(f"{source} holds scans twice: {places}. Keep one series of each.")
    return {name: folders.pop() for name, folders in sorted(found.items())}
