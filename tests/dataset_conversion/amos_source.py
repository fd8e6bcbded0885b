"""Small sources in the layouts of AMOS."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ssl.conversion.protocols import published

LISTS = published("amos")["dhc-5"]
FOLDERS = {"Tr": LISTS["train"] + LISTS["validation"], "Va": LISTS["test"]}
DIRECTIONS = [(1, 0, 0, 0, 1, 0, 0, 0, 1), (-1, 0, 0, 0, -1, 0, 0, 0, 1), (0, 1, 0, 1, 0, 0, 0, 0, -1)]
SHAPE = (4, 5, 6)  # (z, y, x)


def voxels(name: str) -> tuple[np.ndarray, np.ndarray]:
    image = np.random.default_rng(int(name[5:])).integers(0, 800, SHAPE).astype(np.float32)
    return image, (np.arange(image.size).reshape(SHAPE) % 16).astype(np.uint8)


@pytest.fixture(scope="module")
def amos(tmp_path_factory) -> Path:
    """The amos layout, nested, made once: the tests do not change it."""
    root = tmp_path_factory.mktemp("amos") / "amos22"
    for part, names in {**FOLDERS, "Ts": ["amos_0002", "amos_0003", "amos_0500"]}.items():
        for name in names:
            for folder, array in zip(("images", "labels"), voxels(name), strict=True):
                if folder + part != "labelsTs":
                    volume = sitk.GetImageFromArray(array)
                    volume.SetSpacing((0.6, 0.6, 5.0))
                    volume.SetDirection(DIRECTIONS[int(name[5:]) % 3])
                    (root / "amos22" / f"{folder}{part}").mkdir(parents=True, exist_ok=True)
                    sitk.WriteImage(volume, str(root / "amos22" / f"{folder}{part}" / f"{name}.nii.gz"))
    (root / "__MACOSX" / "imagesTr").mkdir(parents=True)
    (root / "__MACOSX" / "imagesTr" / "._amos_0001.nii.gz").write_text("no image", encoding="utf-8")
    return root
