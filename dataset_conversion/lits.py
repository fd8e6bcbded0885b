"""LiTS: liver and liver tumor in CT (Bilic et al., MedIA 2023).

Read are ``volume-0.nii`` and ``segmentation-0.nii`` to 130, in one folder or several. The challenge's 70
``test-volume-0.nii`` have no labels and are in no list.
"""

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ssl.data.conversion import Conversion, pair_cases
from nnunet_ssl.data.protocols import Labeled, choose
from nnunet_ssl.data.raw import listed
from nnunet_ssl.data.sources import NIFTI, find_files, read_volume, with_geometry
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
    choice.require(images, source)
    cases = pair_cases(choice.parts, images, labels)
    placeholders = [case.id for case in cases if case.label and _has_placeholder_header(case.label)]
    notes = [f"Labels with a placeholder header, given that of their image: {listed(placeholders, 10, ', ')}."]
    return Conversion(
        converter="lits",
        channels=("CT",),
        labels={"background": 0, "liver": 1} if merge_tumor else {"background": 0, "liver": 1, "tumor": 2},
        cases=cases,
        read_image=read_volume,
        read_label=read_merged_label if merge_tumor else read_volume,
        source={"path": str(source), "layout": "volume-0, segmentation-0"},
        protocol={**choice.record, "tumor": "merged into liver" if merge_tumor else "a class of its own"},
        warnings=[*choice.notes, *choice.unused(images), *(notes if placeholders else [])],
        name="LiTS",
        fit_label=fill_placeholder,
    )


def read_merged_label(path: Path) -> sitk.Image:
    """A label with tumor (2) as liver (1)."""
    label = read_volume(path)
    voxels = sitk.GetArrayFromImage(label)
    return with_geometry(np.where(voxels == 2, 1, voxels), label)


def fill_placeholder(label: sitk.Image, image: sitk.Image, path: Path) -> sitk.Image:
    """The label on the grid of its image if its own header is a placeholder (that of case 53 is one)."""
    if _is_placeholder(label) and label.GetSize() == image.GetSize():
        label.CopyInformation(image)
    return label


def _has_placeholder_header(path: Path) -> bool:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:  # a damaged file: reported with all others when it is converted
        return False
    return _is_placeholder(reader)


def _is_placeholder(header: sitk.Image | sitk.ImageFileReader) -> bool:
    # Voxels of 1 mm that begin at the origin or one voxel from it: no scanner writes this.
    return (
        np.allclose(header.GetSpacing(), 1)
        and np.allclose(np.abs(header.GetDirection()), np.eye(3).ravel())
        and np.abs(header.GetOrigin()).max() <= 1
    )
