"""LiTS: liver and liver tumor in CT (Bilic et al., MedIA 2023).

Read are ``volume-0.nii`` and ``segmentation-0.nii`` to 130, in one folder or several. The challenge's 70
``test-volume-0.nii`` have no labels and are in no list.

Headers: those of the images are trusted, but for placeholders (volumes 28 to 47 as published), whose spacing nobody
knows. A label with a placeholder beside an image with a true header (label 53 as published) gets that of its image, for
the arrays lie as each other; any other label must stand where its image does.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ssl.conversion.cases import Case, Conversion, Fitted, pair_cases
from nnunet_ssl.conversion.notes import Note
from nnunet_ssl.conversion.protocols import Labeled, choose
from nnunet_ssl.conversion.sources import NIFTI, find_files, read_volume, with_geometry
from nnunet_ssl.conversion.spacings import PLACEHOLDER, is_placeholder
from nnunet_ssl.errors import InputError


def lits_conversion(source: Path, labeled: Labeled = None, merge_tumor: bool = False) -> Conversion:
    """Finds the scans of the LiTS data set; ids are ``volume-0`` and so on.

    Args:
        source: a folder with the scans and labels in or below it.
        labeled: which scans are labeled; None for ``desco-5``.
        merge_tumor: writes tumor as liver.

    Raises:
        InputError: no scans in ``source``, or scans or labels of the lists missing or present twice.
    """
    images = find_files(source, rf"(?P<id>volume-\d+){NIFTI}")
    segmentations = find_files(source, rf"segmentation-(?P<id>\d+){NIFTI}")
    labels = {f"volume-{number}": path for number, path in segmentations.items()}
    if not images:
        raise InputError(f"No LiTS scans in {source}: expected volume-0.nii in or below it.")
    choice = choose("lits", labeled, default="desco-5")
    choice = choice.present(images, source)
    notes = [*choice.notes, *choice.unused(images)]
    if challenge := sorted({path.name.partition(".")[0] for path in source.rglob("test-volume-*.nii*")}):
        notes.append(Note("not used", "scans of the challenge's test, in no list", tuple(challenge)))
    if merge_tumor:
        notes.append(Note("tumor written as liver", "--merge-tumor"))
    return Conversion(
        converter="lits",
        channels=("CT",),
        labels={"background": 0, "liver": 1} if merge_tumor else {"background": 0, "liver": 1, "tumor": 2},
        cases=pair_cases(choice.parts, images, labels),
        read_image=read_volume,
        read_label=read_merged_label if merge_tumor else read_volume,
        source={"path": str(source), "layout": "volume-0, segmentation-0"},
        protocol={**choice.record, "tumor": "merged into liver" if merge_tumor else "a class of its own"},
        notes=notes,
        name="LiTS",
        fit_label=fill_placeholder,
    )


def read_merged_label(path: Path) -> sitk.Image:
    """A label with tumor (2) as liver (1)."""
    label = read_volume(path)
    voxels = sitk.GetArrayFromImage(label)
    return with_geometry(np.where(voxels == 2, 1, voxels), label)


def fill_placeholder(label: sitk.Image, image: sitk.Image, case: Case, votes: Counter | None) -> Fitted:
    """The label on the grid of its image if its own header is a placeholder and that of the image is none."""
    if not is_placeholder(label) or is_placeholder(image) or label.GetSize() != image.GetSize():
        return label, None
    label.CopyInformation(image)
    return label, Note("label given the header of its image", f"the label has {PLACEHOLDER}", (case.id,))
