"""Small sources in the layouts of LA."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import SimpleITK as sitk

TRAIN, TEST = ["ID4", "ID1", "ID3", "ID2"], ["ID6", "ID5"]
SHAPE = (12, 10, 8)  # (x, y, z)


SPACING, ORIGIN, DIRECTION = (0.625, 0.625, 1.25), (-50.5, 20.25, 3.0), (-1, 0, 0, 0, -1, 0, 0, 0, 1)


def scan(name: str) -> tuple[np.ndarray, np.ndarray]:
    """8-bit image and 0/1 label in the axes (x, y, z), different for every scan."""
    rng = np.random.default_rng(int.from_bytes(name.encode(), "big"))
    image = rng.integers(0, 256, SHAPE).astype(np.uint8)
    label = np.zeros(SHAPE, np.uint8)
    label[2:9, 3:7, 1:6] = 1
    return image, label


def write_lists(folder: Path, train=TRAIN, test=TEST) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.list").write_text("\n".join(train) + "\n", encoding="utf-8")
    (folder / "test.list").write_text("\n".join(test) + "\n\n", encoding="utf-8")


def write_h5(folder: Path, names=(*TRAIN, *TEST)) -> None:
    for name in names:
        image, label = scan(name)
        (folder / name).mkdir(parents=True)
        with h5py.File(folder / name / "mri_norm2.h5", "w") as file:
            normalized = (image.astype(np.float32) - 100) / 50
            file.create_dataset("image", data=normalized, compression="gzip")
            file.create_dataset("label", data=label, compression="gzip")


def write_nrrd(folder: Path, names=(*TRAIN, *TEST)) -> None:
    for name in names:
        (folder / name).mkdir(parents=True)
        image, label = scan(name)
        for file, voxels in {"lgemri": image, "laendo": label * 255, "lawall": 255 - label * 255}.items():
            volume = sitk.GetImageFromArray(voxels.transpose(2, 1, 0))
            volume.SetSpacing(SPACING)
            volume.SetOrigin(ORIGIN)
            volume.SetDirection(DIRECTION)
            sitk.WriteImage(volume, str(folder / name / f"{file}.nrrd"), useCompression=True)


@pytest.fixture
def la_h5(tmp_path) -> Path:
    source = tmp_path / "la"
    write_h5(source / "2018LA_Seg_Training Set")
    write_lists(source)
    return source


@pytest.fixture
def la(tmp_path) -> Path:
    source = tmp_path / "challenge"
    write_nrrd(source / "Training Set")
    write_lists(source)
    return source
