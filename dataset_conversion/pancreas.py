"""Pancreas-CT: the pancreas in CT (Roth et al., NIH, TCIA 2016).

Read are the DICOM series below ``PANCREAS_0001`` and so on and the labels ``label0001.nii.gz``.

Headers: those of the scans are trusted, with the spacing between slices from their positions. Those of the labels are
not: sources store them with other axes. A label is first turned by its header, if that then names the grid of the scan.
Of all flips the right one is that whose border lies on borders of the scan: the organ is brighter than what lies around
it by :data:`CLEAR` more than with any other flip. Where none is, the flip that nearly all other labels needed is taken,
or else that of the header; where these say nothing either, the case is refused. What was taken is recorded.

Cases 25 and 70 were withdrawn from the release in 2020: they are the scan of case 2 with another field of view.
"""

import re
from collections import Counter
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ssl.conversion.case_writer import CannotTell
from nnunet_ssl.conversion.cases import Case, Conversion, Fitted, pair_cases
from nnunet_ssl.conversion.notes import Note
from nnunet_ssl.conversion.protocols import Labeled, choose
from nnunet_ssl.conversion.sources import NIFTI, find_files, read_volume, reason_of, require_whole, with_geometry
from nnunet_ssl.data.raw import listed
from nnunet_ssl.data.space import align, grid_of_image
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import is_clutter

WITHDRAWN = ("PANCREAS_0025", "PANCREAS_0070")
SOFT_TISSUE = (-50, 200)  # HU
CLEAR = 5.0
"""HU, and standard errors: by so much the best flip must beat the next one. In two real scans liver, spleen, kidneys
and pancreas are 12 to 63 HU brighter inside their border than outside by the right flip, 8 at most by the next best."""
WINDOW = (-200, 300)  # HU; air and bone beyond it say no more than fat and contrast agent
VOTES, MAJORITY = 3, 0.9
"""What other labels needed counts if at least so many could tell, and so large a share of them agrees."""
BY_HEADER, AS_STORED = "label turned by its header", "label as stored"


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
    choice = choice.present(images, source)
    notes = choice.notes + choice.unused(images)
    if keep_withdrawn:
        notes.append(Note("all kept", "they are the same scan, in training and in test", ("PANCREAS_0002", *WITHDRAWN)))
    return Conversion(
        converter="pancreas",
        channels=("CT",),
        labels={"background": 0, "pancreas": 1},
        cases=pair_cases(choice.parts, images, {f"PANCREAS_{number}": path for number, path in labels.items()}),
        read_image=read_series,
        read_label=read_volume,
        source={"path": str(source), "layout": "TCIA: DICOM series and NIfTI labels"},
        protocol={**choice.record, "withdrawn cases": "kept" if keep_withdrawn else "left out"},
        notes=notes,
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
        if not all(reader.HasMetaDataKey(z, "0028|0030") for z in slices):  # GDCM makes 1 mm of it
            raise InputError(f"{folder} has slices without PixelSpacing, so the size of a voxel is unknown; replace it")
        positions = np.array([reader.GetMetaData(z, "0020|0032").split("\\") for z in slices], dtype=float)
    except (RuntimeError, MemoryError, ValueError) as error:
        raise InputError(f"{folder} cannot be read ({reason_of(error)}); replace it") from error
    if len(positions) < 2:
        raise InputError(f"{folder} holds one slice only, so the distance of slices is unknown; fetch it again")
    distances = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    if not np.allclose(distances, np.median(distances), rtol=0.01, atol=0.01):
        raise InputError(
            f"{folder} has slices {distances.min():g} to {distances.max():g} mm apart (one missing?); fetch it again"
        )
    return image


def fit_label(label: sitk.Image, image: sitk.Image, case: Case, votes: Counter | None) -> Fitted:
    """The label on the grid of its image, by the flip that lays its border on borders of the scan.

    Args:
        votes: how often other labels needed what, by ``Note.what``; None while they are not all told.

    Raises:
        CannotTell: no flip is better than the others by a margin, and ``votes`` is None.
        InputError: another shape; an empty label; one that lies in no soft tissue; or neither the scan, nor the other
            labels, nor the header tell how it is stored.
    """
    path = case.label
    stored, has_header = sitk.GetArrayFromImage(label), True
    try:
        stored, _ = align(stored, grid_of_image(label), grid_of_image(image), str(path), "its scan")
    except InputError:
        if label.GetSize() != image.GetSize():
            raise
        has_header = False
    if not stored.any():
        raise InputError(f"{path} is empty; replace it")
    flips = _flips(stored != 0, sitk.GetArrayViewFromImage(image), has_header)
    chosen, why, margin = _choose_flip(flips, votes, has_header, path)
    low, high = SOFT_TISSUE
    if not low < chosen.median < high:
        median = f"median {chosen.median:g} HU"
        raise InputError(f"{path} does not lie in soft tissue ({median}, {chosen.name}); pair the right files")
    fitted = with_geometry(np.ascontiguousarray(np.flip(stored, chosen.axes)), image)
    return fitted, Note(chosen.name, why, (case.id,), {case.id: {"margin in HU": round(margin, 2)}})


@dataclass(frozen=True)
class Flip:
    """One way in which a label may be stored.

    Attributes:
        axes: the axes (z, y, x) along which the stored array is flipped.
        name: what is done to the label, in words.
        step: HU by which voxels inside the border of the label are brighter than their neighbors outside, on average.
        error: the standard error of that.
        median: of the labeled voxels, HU.
    """

    axes: tuple[int, ...]
    name: str
    step: float
    error: float
    median: float


def _flips(label: np.ndarray, voxels: np.ndarray, has_header: bool) -> list[Flip]:
    """All flips of a label that differ, the one without any first."""
    along = [np.flatnonzero(label.any(tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    ends = [(int(found[0]), int(found[-1]) + 1) for found in along]
    tight = label[tuple(slice(*pair) for pair in ends)]
    box = tuple(slice(max(0, first - 1), last + 1) for first, last in ends)  # one voxel around the label
    flips, placed = [], set()
    for axes in (tuple(axis for axis, wanted in enumerate(choice) if wanted) for choice in product((0, 1), repeat=3)):
        begins = tuple(label.shape[axis] - ends[axis][1] if axis in axes else ends[axis][0] for axis in range(3))
        place = (begins, np.flip(tight, axes).tobytes())
        if place in placed:
            continue
        placed.add(place)
        here = np.flip(voxels, axes)[box]  # the scan is flipped in place of the label, for the box is small
        names = [BY_HEADER] if has_header else []
        if axes:
            names.append(f"label flipped along {' and '.join('zyx'[axis] for axis in axes)}")
        step, error = _step_at_the_border(label[box], here)
        flips.append(Flip(axes, ", then ".join(names) or AS_STORED, step, error, float(np.median(here[label[box]]))))
    return flips


def _step_at_the_border(label: np.ndarray, voxels: np.ndarray) -> tuple[float, float]:
    """By how much voxels inside are brighter than their neighbors outside, HU: mean and standard error."""
    voxels = np.clip(voxels, *WINDOW).astype(float)
    steps = []
    for axis in range(3):
        inside, values = np.moveaxis(label, axis, 0), np.moveaxis(voxels, axis, 0)
        into, out_of = inside[1:] & ~inside[:-1], inside[:-1] & ~inside[1:]
        rises = values[1:] - values[:-1]
        steps += [rises[into], -rises[out_of]]
    found = np.concatenate(steps)
    return (float(found.mean()), float(found.std() / np.sqrt(found.size))) if found.size else (0.0, 0.0)


def _choose_flip(flips: list[Flip], votes: Counter | None, has_header: bool, path: Path) -> tuple[Flip, str, float]:
    """The flip to take, why, and by how many HU the best one beats the next.

    Raises:
        CannotTell: none is clearly the best, and ``votes`` is None.
        InputError: neither other labels nor a header say which to take then.
    """
    best, *others = sorted(flips, key=lambda flip: -flip.step)
    if not others:
        return best, "all flips of this label are the same", 0.0
    margin = best.step - max(0.0, others[0].step)
    if margin >= CLEAR * max(1.0, np.hypot(best.error, others[0].error)):
        return best, "by this flip alone its border lies on borders of the scan", margin
    message = f"{path}: the scan does not tell how the label is stored ({best.name}? the margin is {margin:.2g} HU)"
    if votes is None:
        raise CannotTell(message)
    # What labels with a header needed says nothing about those without.
    alike = {name: count for name, count in votes.items() if name.startswith(BY_HEADER) == has_header}
    usual = max(alike, key=alike.get, default="")
    told, count = sum(alike.values()), alike.get(usual, 0)
    if told >= VOTES and count >= MAJORITY * told and (chosen := [flip for flip in flips if flip.name == usual]):
        return chosen[0], f"the scan does not tell; taken as for {count} of the {told} labels whose scans do", margin
    if has_header:
        return flips[0], "the scan does not tell; the header is taken at its word", margin
    told_of = listed([f"{name}: {number}" for name, number in alike.items()]) or "none could be told"
    raise InputError(
        f"{message}, nor do the other labels ({told_of}); see how it lies, and write it with the header of its scan"
    )


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
