"""Small sources in the layouts of the Decathlon."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

SHAPE = (5, 6, 7)  # (z, y, x)
DIRECTION = (-1, 0, 0, 0, -1, 0, 0, 0, 1)


def build(root: Path, channels: list[str], save) -> Path:
    """Five training and two test cases; 4D files if there are several channels."""
    train, test = [f"case_{number:03d}" for number in (12, 4, 7, 30, 1)], ["case_002", "case_100"]
    rng = np.random.default_rng(0)
    for folder, names in {"imagesTr": train, "imagesTs": test}.items():
        for name in names:
            volumes = []
            for _ in channels:
                voxels = rng.integers(-100, 900, SHAPE).astype(np.float32)
                volumes.append(save(root / folder / f"{name}.nii.gz", voxels, (0.7, 0.9, 3.0), direction=DIRECTION))
            if len(channels) > 1:
                sitk.WriteImage(sitk.JoinSeries(volumes), str(root / folder / f"{name}.nii.gz"))
            if folder == "imagesTr":
                label = rng.integers(0, 3, SHAPE).astype(np.uint8)
                save(root / "labelsTr" / f"{name}.nii.gz", label, (0.7, 0.9, 3.0), direction=DIRECTION)
            (root / folder / f"._{name}.nii.gz").write_text("of macOS", encoding="utf-8")
    pairs = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in train]
    task = {
        "name": "Task",
        "modality": {str(i): channel for i, channel in enumerate(channels)},
        "labels": {"0": "background", "1": "peripheral", "2": "transition"},
        "numTraining": 5,
        "numTest": 2,
        "training": pairs,
        "test": [f"./imagesTs/{name}.nii.gz" for name in test],
    }
    (root / "dataset.json").write_text(json.dumps(task), encoding="utf-8")
    return root


@pytest.fixture
def prostate(tmp_path, save) -> Path:
    return build(tmp_path / "Task05_Prostate", ["T2", "ADC"], save)


@pytest.fixture
def spleen(tmp_path, save) -> Path:
    return build(tmp_path / "Task09_Spleen", ["CT"], save)
