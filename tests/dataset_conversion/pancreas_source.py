"""Small sources in the layouts of Pancreas-CT."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ssl.conversion.protocols import published
from nnunet_ssl.dataset_conversion.pancreas import (
    WITHDRAWN,
)

LISTS = published("pancreas")["mc-net-12"]
SHAPE = (6, 12, 16)  # (z, y, x)
SPACING = (0.75, 0.75, 0.5)
ORIGIN = (-100.0, -150.0, 40.0)


def scan(name: str) -> tuple[np.ndarray, np.ndarray]:
    """HU with an organ of about 100 HU in one corner, and its label; every flip of the label misses the organ."""
    rng = np.random.default_rng(int(name[-4:]))
    image = rng.integers(-900, -700, SHAPE).astype(np.int16)
    label = np.zeros(SHAPE, np.uint8)
    label[1:3, 2:5, 3:7] = 1
    image[label == 1] = rng.integers(70, 130, label.sum())
    return image, label


def write_series(folder: Path, image: np.ndarray, spacing: float = SPACING[2]) -> None:
    """One file a slice, stored as HU + 1024; names and instance numbers run against the positions."""
    folder.mkdir(parents=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for z, voxels in enumerate(image):
        file = sitk.GetImageFromArray(voxels[None])
        file.SetSpacing((*SPACING[:2], 1.0))
        position = (*ORIGIN[:2], ORIGIN[2] + z * spacing)
        for tag, value in {
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0008|0018": f"1.2.3.{z + 1}",
            "0008|0060": "CT",
            "0020|000d": "1.2.3",
            "0020|000e": "1.2.3.0",
            "0020|0013": str(len(image) - z),
            "0020|0032": "\\".join(map(str, position)),
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0018|0050": "1.0",
            "0028|1052": "-1024",
            "0028|1053": "1",
        }.items():
            file.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"1-{len(image) - z:03d}.dcm"))
        writer.Execute(file)


@pytest.fixture
def pancreas_case(tmp_path):
    """Writes one case in the layout of TCIA; its label has the header of a label whose y runs the other way."""

    def write(root: Path, name: str) -> None:
        image, label = scan(name)
        write_series(root / "Pancreas-CT" / name / "11-24-2015-Pancreas" / "Pancreas-63502", image)
        flipped = sitk.GetImageFromArray(np.flip(label, 1))
        flipped.SetSpacing(SPACING)
        flipped.SetDirection((1, 0, 0, 0, -1, 0, 0, 0, 1))
        flipped.SetOrigin((ORIGIN[0], ORIGIN[1] + SPACING[1] * (SHAPE[1] - 1), ORIGIN[2]))
        folder = root / "TCIA_pancreas_labels-02-05-2017"
        folder.mkdir(exist_ok=True)
        sitk.WriteImage(flipped, str(folder / f"label{name[-4:]}.nii.gz"))

    return write


@pytest.fixture
def pancreas(tmp_path, pancreas_case) -> Path:
    """The release of today: 82 labels, no scans 25 and 70, one of them as an empty folder."""
    root = tmp_path / "TCIA"
    for name in LISTS["train"] + LISTS["test"]:
        if name not in WITHDRAWN:
            pancreas_case(root, name)
    for name in WITHDRAWN:
        (root / "TCIA_pancreas_labels-02-05-2017" / f"label{name[-4:]}.nii.gz").write_text(
            "not to be opened", encoding="utf-8"
        )
    (root / "Pancreas-CT" / WITHDRAWN[0]).mkdir()
    (root / "Pancreas-CT" / "LICENSE").write_text("text", encoding="utf-8")
    return root
