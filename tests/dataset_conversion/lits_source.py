"""Small sources in the layouts of LiTS."""

from pathlib import Path

import numpy as np
import pytest

GEOMETRY = {
    "spacing": (0.836, 0.836, 2.5),
    "origin": (172.9, 179.3, -368.0),
    "direction": (-1, 0, 0, 0, -1, 0, 0, 0, 1),
}


PLACEHOLDER = {"spacing": (1, 1, 1), "origin": (-1, -1, 1), "direction": (-1, 0, 0, 0, -1, 0, 0, 0, 1)}
SHAPE = (5, 6, 8)  # (z, y, x)


def voxels(number: int) -> tuple[np.ndarray, np.ndarray]:
    image = np.random.default_rng(number).integers(-1024, 1500, SHAPE).astype(np.int16)
    label = np.zeros(SHAPE)  # float64, as in some copies
    label[1:4, 1:5, 2:7] = 1
    label[2, 2:4, 3:5] = 2 if number % 3 else 1  # some cases have no tumor
    return image, label


@pytest.fixture
def lits(tmp_path, save) -> Path:
    """Two batches; the label of 118 (labeled) has the placeholder header of case 53."""
    root = tmp_path / "LiTS"
    for number in range(131):
        folder = root / ("Training Batch 1" if number < 28 else "Training Batch 2")
        image, label = voxels(number)
        save(folder / f"volume-{number}.nii", image, **GEOMETRY)
        save(folder / f"segmentation-{number}.nii", label, **(PLACEHOLDER if number in (53, 118) else GEOMETRY))
    save(root / "test" / "test-volume-0.nii", voxels(0)[0])
    return root
