"""ACDC: right ventricle, myocardium and left ventricle in cine MR (Bernard et al., IEEE TMI 2018).

Each patient has two labeled frames, end diastole (ED) and end systole (ES), and stays in one part with both. The
published lists (SSL4MIS) divide the challenge's 100 training patients. Two layouts are read:

- the challenge's own ``training/patient001/`` with ``Info.cfg``, ``patient001_frame01.nii.gz`` and
  ``patient001_frame01_gt.nii.gz``; the frames are those that ``Info.cfg`` calls ED and ES;
- the h5 files of SSL4MIS, ``data/patient001_frame01.h5`` with ``image`` and ``label`` (z, y, x) without spacing;
  frame02 is always ES there. A volume that is there as slices only (``..._slice_1.h5``) is put together.

Headers: those of the challenge are trusted, and a label must stand where its image does; h5 files have none.
"""

import re
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ssl.conversion.cases import Case, Conversion
from nnunet_ssl.conversion.notes import Note
from nnunet_ssl.conversion.protocols import Labeled, choose
from nnunet_ssl.conversion.sources import read_h5, read_volume, rescaled_h5
from nnunet_ssl.data.raw import listed
from nnunet_ssl.errors import InputError

SPACING = (10.0, 1.5, 1.5)
"""mm (z, y, x), assumed for h5 files: slices of the challenge lie 5 to 10 mm apart with pixels of 1.37 to 1.68 mm."""

Frames = dict[str, tuple[Path, Path]]


def acdc_conversion(
    source: Path, labeled: Labeled = None, spacing: tuple[float, float, float] | None = None
) -> Conversion:
    """Finds the patients of the ACDC data set.

    Args:
        source: the folder of the patient folders or of the h5 files, or the folder above it.
        labeled: which patients are labeled; None for ``ssl4mis-7``, the first 7.
        spacing: mm (z, y, x), for the h5 files only; None for :data:`SPACING`.

    Raises:
        InputError: no patients in ``source``, or patients of the lists missing or incomplete.
    """
    if not source.is_dir():
        raise InputError(f"SOURCE {source} is no folder.")
    patients = _original_frames(source)
    is_h5 = not patients
    if is_h5:
        patients = _h5_frames(source)
    elif spacing:
        raise InputError("--spacing is for the h5 files: the original files hold their spacing.")
    if not patients:
        raise InputError(f"No ACDC patients in {source}: expected patient001/Info.cfg or patient001_frame01.h5.")
    is_given, spacing = bool(spacing), spacing or SPACING
    if not all(0 < size < float("inf") for size in spacing):
        raise InputError(f"--spacing {spacing}: give three positive numbers, Z Y X in mm.")
    choice = choose("acdc", labeled, default="ssl4mis-7")
    choice = choice.present(patients, source)
    used = [patient for ids in choice.parts.values() for patient in ids]
    if incomplete := [patient for patient in used if len(patients[patient]) != 2]:
        raise InputError(
            f"{source} lacks one of the two frames of: {listed(incomplete, separator=', ')}. Fetch them again."
        )
    cases = [
        Case(frame, part, (image,), None if part == "unlabeled" else label)
        for part, ids in choice.parts.items()
        for patient in ids
        for frame, (image, label) in patients[patient].items()
    ]
    return Conversion(
        converter="acdc",
        channels=("cine_MRI",),
        labels={"background": 0, "right_ventricle": 1, "myocardium": 2, "left_ventricle": 3},
        cases=cases,
        read_image=partial(read_h5_image, spacing=spacing) if is_h5 else read_volume,
        read_label=partial(read_h5_label, spacing=spacing) if is_h5 else read_volume,
        source={"path": str(source), "layout": "h5 (SSL4MIS)" if is_h5 else "challenge"},
        protocol={
            **choice.record,
            "unit": "patient: both frames of a patient are in one part",
            "spacing (z, y, x)": list(spacing) if is_h5 else "of the headers",
        },
        notes=[
            *choice.notes,
            *choice.unused(patients),
            *(_notes_on_h5(cases, spacing, is_given) if is_h5 else []),
        ],
        name="ACDC",
    )


def read_h5_image(path: Path, spacing: tuple[float, float, float]) -> sitk.Image:
    """The image of an h5 file, or of its slices, as float32.

    Attributes ``scale`` and ``offset``, where present, are applied to all voxels but those that are 0.
    """
    slices = []
    for file, axes in _files_of(path):
        voxels, attributes = read_h5(file, "image", axes)
        values = voxels.astype(np.float64) * attributes.get("scale", 1.0) + attributes.get("offset", 0.0)
        slices.append(np.where(voxels == 0, 0, values).astype(np.float32))
    return _from_slices(path, slices, spacing)


def read_h5_label(path: Path, spacing: tuple[float, float, float]) -> sitk.Image:
    """The label of an h5 file, or of its slices."""
    return _from_slices(path, [read_h5(file, "label", axes)[0] for file, axes in _files_of(path)], spacing)


def _notes_on_h5(cases: list[Case], spacing: tuple[float, float, float], is_given: bool) -> list[Note]:
    size = " x ".join(f"{size:g}" for size in spacing)
    by_whom = "given by --spacing" if is_given else "assumed"
    none = "the h5 files hold no geometry, and the true spacing differs between patients"
    notes = [Note(f"spacing {by_whom}, {size} mm (z, y, x)", none if is_given else f"{none}; --spacing gives another")]
    if sliced := tuple(case.id for case in cases if "_slice_" in case.images[0].name):
        why = "the source has no volume of them; the slice with the highest number is taken for the last"
        notes.append(Note("put together from slices", why, sliced))
    return notes + rescaled_h5({case.id: case.images[0] for case in cases})


def _files_of(path: Path) -> list[tuple[Path, str]]:
    """The volume's file, or those of all its slices in order, with their axes."""
    if "_slice_" not in path.name:
        return [(path, "zyx")]
    stem = path.name[: path.name.index("_slice_")]
    files = {_slice_number(file): file for file in path.parent.glob(f"{stem}_slice_*.h5")}
    first = min(files)
    if gaps := [str(number) for number in range(first, max(files)) if number not in files]:
        raise InputError(f"{path.parent} lacks slices {listed(gaps, separator=', ')} of {stem}; fetch them again")
    return [(files[number], "yx") for number in sorted(files)]


def _slice_number(path: Path) -> int:
    return int(path.stem.rpartition("_")[2])


def _from_slices(path: Path, slices: list[np.ndarray], spacing: tuple[float, float, float]) -> sitk.Image:
    if len({voxels.shape for voxels in slices}) > 1:
        raise InputError(f"{path} and the other slices of its volume have different sizes; fetch them again")
    image = sitk.GetImageFromArray(np.stack(slices) if slices[0].ndim == 2 else slices[0])
    image.SetSpacing(spacing[::-1])
    return image


def _h5_frames(source: Path) -> dict[str, Frames]:
    patients: dict[str, Frames] = {}
    for folder in (source, source / "data", source / "slices", source / "data" / "slices"):
        # Volumes come before slices, and slice 1 before slice 10, so that the first file of a frame is the one to keep.
        for path in sorted(folder.glob("patient*_frame*.h5"), key=lambda path: (len(path.name), path.name)):
            if match := re.fullmatch(r"((patient\d{3})_frame\d{2})(_slice_\d+)?\.h5", path.name):
                patients.setdefault(match[2], {}).setdefault(match[1], (path, path))
    return patients


def _original_frames(source: Path) -> dict[str, Frames]:
    """The ED and ES frames by patient."""
    patients: dict[str, Frames] = {}
    infos = [path for depth in ("", "*/", "*/*/") for path in sorted(source.glob(f"{depth}patient*/Info.cfg"))]
    # A source that is the folder of one part of the challenge holds the patients itself.
    for info in infos:
        patient = info.parent.name
        if patient in patients:
            raise InputError(f"{source} holds {patient} twice. Point SOURCE at one of the folders.")
        try:
            lines = info.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{info} cannot be read ({error}). Fetch it again.") from error
        entries = dict(line.split(":", 1) for line in lines if ":" in line)
        patients[patient] = {}
        for phase in ("ED", "ES"):
            try:
                frame = f"{patient}_frame{int(entries[phase]):02d}"
            except (KeyError, ValueError):
                raise InputError(f"{info} has no frame number '{phase}: N'. Fetch it again.") from None
            # Some copies are not compressed.
            ending = ".nii" if (info.parent / f"{frame}.nii").is_file() else ".nii.gz"
            patients[patient][frame] = (info.parent / f"{frame}{ending}", info.parent / f"{frame}_gt{ending}")
    return patients
