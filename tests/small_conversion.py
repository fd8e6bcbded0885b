"""What the conversion of five small cases holds (the fixture `conversion`), and the files that it makes."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk

SPACING = (0.5, 0.75, 2.0)
ORIGIN = (-12.5, 3.25, 100.0)
DIRECTION = (0, 1, 0, -1, 0, 0, 0, 0, 1)


def volume(voxels: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    image.SetDirection(DIRECTION)
    return image


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


WHOLE = [
    "conversion.json",
    "dataset.json",
    *(f"imagesTr/{case}_000{channel}.nii.gz" for case in "ab" for channel in (0, 1)),
    *(f"imagesTs/e_000{channel}.nii.gz" for channel in (0, 1)),
    *(f"imagesUnlabeled/{case}_000{channel}.nii.gz" for case in "cd" for channel in (0, 1)),
    "labelsTr/a.nii.gz",
    "labelsTr/b.nii.gz",
    "labelsTs/e.nii.gz",
]
