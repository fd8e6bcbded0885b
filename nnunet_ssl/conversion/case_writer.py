"""One case of a conversion: read, checked, repaired where the data set allows it, written."""

import errno
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ssl.conversion.cases import Case, Conversion
from nnunet_ssl.conversion.notes import Note
from nnunet_ssl.conversion.sources import REPAIR, read_volume, with_geometry
from nnunet_ssl.conversion.spacings import give_spacing
from nnunet_ssl.data.headers import every_reader_opens, file_fault
from nnunet_ssl.data.space import ROUNDING, TOLERANCE, Difference, align, grid_of_image, worst
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import write_fault

FILE_ENDING = ".nii.gz"
# nnU-Net has validation cases among the labeled ones; which they are, a fold says.
IMAGE_FOLDERS = {"labeled": "imagesTr", "validation": "imagesTr", "unlabeled": "imagesUnlabeled", "test": "imagesTs"}
LABEL_FOLDERS = {"labeled": "labelsTr", "validation": "labelsTr", "test": "labelsTs"}
GEOMETRY = ("GetSize", "GetSpacing", "GetOrigin", "GetDirection")
FIRST = "the case's (first) image"


class CannotTell(InputError):
    """How a label is stored cannot be told from this case alone."""


@dataclass(frozen=True)
class Outcome:
    """What became of a case: written, with what was done to it; not written, for it has faults; or put off.

    Attributes:
        case: its id.
        fault: all its faults in one line, each with file and what to do.
        put_off: whether what was done to the labels of other cases must be known first.
        fit: what was done to its label.
        notes: all that was repaired or assumed.
    """

    case: str
    fault: str = ""
    put_off: bool = False
    fit: str | None = None
    notes: list[Note] = field(default_factory=list)


def convert_case(
    case: "Case", folder: Path, link: bool, conversion: "Conversion", votes: Counter | None = None
) -> Outcome:
    """Reads, checks and writes one case, unless it has faults."""
    faults: list[str] = []
    images = _read_images(case, conversion, faults)
    label, fit, put_off = None, None, False
    repairs = [image.GetMetaData(REPAIR) for _, image in images if image.HasMetaDataKey(REPAIR)]
    if case.label:
        try:
            stored = conversion.read_label(case.label)
            repairs += [stored.GetMetaData(REPAIR)] if stored.HasMetaDataKey(REPAIR) else []
            if case.spacing:
                give_spacing([stored], case.spacing)
            if conversion.fit_label and images:
                label, fit = conversion.fit_label(stored, images[0][1], case, votes)
            else:
                label = stored
        except CannotTell:
            put_off = True
        except InputError as error:
            faults.append(str(error))
    stored_volumes = images + ([(case.label, label)] if label is not None else [])
    volumes, differences = _on_one_grid(stored_volumes, faults)
    faults += [f"{path} {fault}" for path, image in images for fault in _image_faults(image)]
    if label is not None:
        faults += [f"{case.label} {fault}" for fault in _label_faults(label, sorted(conversion.labels.values()))]
    if faults:
        # image and label may be one file
        return Outcome(case.id, "; ".join(dict.fromkeys(faults)))
    if put_off:
        return Outcome(case.id, put_off=True)

    fits = link and conversion.read_image is read_volume and not case.spacing
    for channel, (image, same) in enumerate(volumes[: len(images)]):
        _put_volume(image, folder / image_file(case, channel), same if fits else None)
    notes = [Note(*repair.split(": ", 1), (case.id,)) for repair in dict.fromkeys(repairs)]
    notes += ([fit] if fit else []) + _notes_on_space(case.id, worst(differences))
    if label is not None:
        label, same = volumes[-1]
        fits = link and conversion.read_label is read_volume and not fit and not case.spacing
        if label.GetPixelID() != sitk.sitkUInt8:
            why = f"stored as {label.GetPixelIDTypeAsString()}; every value is one of the data set's labels"
            notes.append(Note("label written as 8-bit unsigned integer", why, (case.id,)))
        _put_volume(sitk.Cast(label, sitk.sitkUInt8), folder / label_file(case), same if fits else None)
    return Outcome(case.id, fit=fit.what if fit else None, notes=notes)


def _read_images(case: "Case", conversion: "Conversion", faults: list[str]) -> list[tuple[Path, sitk.Image]]:
    """The channels that can be read, each with its file; what cannot goes to ``faults``."""
    images: list[tuple[Path, sitk.Image]] = []
    for path in case.images:
        try:
            read = conversion.read_image(path)
        except InputError as error:
            faults.append(str(error))
            continue
        images += [(path, image) for image in (read if isinstance(read, list) else [read])]
    if not faults and len(images) != len(conversion.channels):
        faults.append(f"{case.images[0]} and its like hold {len(images)} channels, not {len(conversion.channels)}")
    if case.spacing:
        give_spacing([image for _, image in images], case.spacing)
    return images


def _on_one_grid(
    volumes: list[tuple[Path, sitk.Image]], faults: list[str]
) -> tuple[list[tuple[sitk.Image, Path | None]], list[Difference]]:
    """The volumes of a case on the grid of the first: themselves, or their voxels, turned if need be, with its header.

    Returns:
        Each with the file that holds it, None if no file holds it so, and how they were stored differently. What
        stands elsewhere goes to ``faults``.
    """
    placed, differences = [], []
    for path, volume in volumes:
        first = volumes[0][1]
        if all(getattr(volume, get)() == getattr(first, get)() for get in GEOMETRY):
            placed.append((volume, path))
            continue
        voxels, grids = sitk.GetArrayViewFromImage(volume), (grid_of_image(volume), grid_of_image(first))
        try:
            voxels, difference = align(voxels, *grids, str(path), FIRST)
        except InputError as error:
            faults.append(str(error))
            continue
        placed.append((with_geometry(voxels, first), None))
        differences.append(difference)
    return placed, differences


def _notes_on_space(case: str, difference: Difference) -> list[Note]:
    notes = []
    if difference.turned:
        why = f"stored with other axes than {FIRST}; nothing is interpolated"
        notes.append(Note("label or channel turned", why, (case,)))
    if difference.voxels >= ROUNDING:
        why = f"its own is another, by less than {TOLERANCE:g} voxels at every corner"
        measured = {"voxels off": difference.voxels, "mm off": difference.mm}
        notes.append(Note(f"label or channel given the header of {FIRST}", why, (case,), {case: measured}))
    return notes


def _image_faults(image: sitk.Image) -> list[str]:
    voxels = sitk.GetArrayViewFromImage(image)
    if not voxels.size:
        return ["has no voxels; replace it"]
    if not np.isfinite(voxels).all():
        return ["holds NaN or infinite values; replace them"]
    if voxels.min() == voxels.max():
        return [f"is empty: every voxel is {voxels.min()}; replace it"]
    if not grid_of_image(image).is_known():
        return ["has a header that does not say where its voxels stand; mend it"]
    return []


def _label_faults(label: sitk.Image, values: list[int]) -> list[str]:
    found = np.unique(sitk.GetArrayViewFromImage(label))
    if unexpected := [value.item() for value in found if value not in values]:
        return [f"has label values {unexpected[:10]} besides {values}; mend the label"]
    return []


def _put_volume(image: sitk.Image, path: Path, same: Path | None) -> None:
    """Writes a volume, or links to ``same``, the source file that holds it, where its ending fits."""
    if same is None or not same.name.endswith(FILE_ENDING) or not every_reader_opens(same):
        sitk.WriteImage(image, str(path))
        if file_fault(path):
            # it fails without a word
            raise write_fault(path) or OSError(errno.EIO, "it was not written whole", str(path))
        return
    same = same.resolve()  # a hard link to a symbolic link would be another symbolic link
    try:
        path.hardlink_to(same)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
            raise
        path.symlink_to(same)


def image_file(case: "Case", channel: int) -> str:
    return f"{IMAGE_FOLDERS[case.part]}/{case.id}_{channel:04d}{FILE_ENDING}"


def label_file(case: "Case") -> str:
    return f"{LABEL_FOLDERS[case.part]}/{case.id}{FILE_ENDING}"
