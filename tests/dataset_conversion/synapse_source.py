"""Small sources in the layouts of Synapse."""

from pathlib import Path

import numpy as np
import pytest

NUMBERS = [*range(1, 11), *range(21, 41)]
MISSING_ORGAN = 4
DIRECTION = (-1, 0, 0, 0, -1, 0, 0, 0, 1)
SHAPE = (6, 8, 10)  # (z, y, x)


def voxels(number: int) -> tuple[np.ndarray, np.ndarray]:
    image = np.random.default_rng(number).integers(-1024, 1500, SHAPE).astype(np.int16)
    label = (np.arange(image.size).reshape(SHAPE) % 14).astype(np.uint8)
    label[label == MISSING_ORGAN] = 0 if number % 2 else MISSING_ORGAN
    return image, label


def build(root: Path, save, images="RawData/Training/img", labels="RawData/Training/label") -> Path:
    for number in NUMBERS:
        image, label = voxels(number)
        geometry = {"spacing": (0.7, 0.7, 3.0 + number / 10), "direction": DIRECTION}
        save(root / images / f"img{number:04d}.nii.gz", image, **geometry)
        save(root / labels / f"label{number:04d}.nii.gz", label, **geometry)
    return root


@pytest.fixture
def synapse(tmp_path, save) -> Path:
    root = build(tmp_path / "Abdomen", save)
    for number in (61, 62):
        save(root / "RawData" / "Testing" / "img" / f"img{number:04d}.nii.gz", voxels(number)[0])
    (root / "__MACOSX" / "img").mkdir(parents=True)
    (root / "__MACOSX" / "img" / "img0001.nii.gz").write_text("no image", encoding="utf-8")
    (root / "RawData" / "Training" / "img" / "._img0001.nii.gz").write_text("no image", encoding="utf-8")
    return root
