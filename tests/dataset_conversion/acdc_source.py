"""Small sources in the layouts of ACDC."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from nnunet_ssl.conversion.protocols import published

LISTS = published("acdc")["ssl4mis-3"]
PATIENTS = LISTS["train"] + LISTS["test"]
FIRST = ["patient099", "patient038", "patient050"]
SHAPE = (4, 9, 7)  # (z, y, x)


def frame(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Image and label of a frame, different for each."""
    image = np.random.default_rng(int.from_bytes(name.encode(), "big")).integers(1, 900, SHAPE).astype(np.int16)
    image[0, 0, :2] = 0
    label = np.zeros(SHAPE, np.uint8)
    label[1:3, 2:8, 1:6] = np.arange(1, 6) % 4
    return image, label


def es_frame(patient: str) -> int:
    return 7 + int(patient[-3:]) % 9


@pytest.fixture
def acdc(tmp_path, save) -> Path:
    """The challenge's layout; labels of training patients outside the labeled 3 would fail if they were read."""
    source = tmp_path / "ACDC" / "database"
    for patient in [*PATIENTS, "patient101"]:
        folder = source / ("testing" if patient == "patient101" else "training") / patient
        for number in (1, es_frame(patient)):
            name = f"{patient}_frame{number:02d}"
            image, label = frame(name)
            save(folder / f"{name}.nii.gz", image, (1.5625, 1.5625, 10.0))
            if patient in FIRST + LISTS["test"]:
                save(folder / f"{name}_gt.nii.gz", label, (1.5625, 1.5625, 10.0))
            elif patient != "patient101":
                (folder / f"{name}_gt.nii.gz").write_text("not to be opened", encoding="utf-8")
        (folder / f"{patient}_4d.nii.gz").write_text("not to be opened", encoding="utf-8")
        (folder / "Info.cfg").write_text(
            f"ED: 1\nES: {es_frame(patient)}\nGroup: DCM\nHeight: 184.0\nNbFrame: 30\nWeight: 95.0\n", encoding="utf-8"
        )
    return source


@pytest.fixture
def acdc_h5(tmp_path) -> Path:
    """The h5 layout: volumes, and slices only for the first patient."""
    source = tmp_path / "ACDC_h5"
    (source / "data").mkdir(parents=True)
    for patient in PATIENTS:
        for number in (1, 2):
            name = f"{patient}_frame{number:02d}"
            image, label = frame(name)
            image = image.astype(np.float32) / 900
            if patient == FIRST[0]:
                for z in range(SHAPE[0]):
                    write_h5(source / "data" / "slices" / f"{name}_slice_{z + 1}.h5", image[z], label[z])
            else:
                write_h5(source / "data" / f"{name}.h5", image, label)
    return source


def write_h5(path: Path, image: np.ndarray, label: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("image", data=image, compression="gzip")
        file.create_dataset("label", data=label, compression="gzip")
