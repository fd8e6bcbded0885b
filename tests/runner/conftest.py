"""Fixtures of the runner's tests."""

import json
from pathlib import Path

import pytest
from trainings import Trainings


@pytest.fixture
def dataset(tmp_path, monkeypatch) -> Path:
    """A preprocessed dataset of ten empty files, as far as the runner looks into it."""
    for kind in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{kind}", str(tmp_path / kind))
        (tmp_path / kind).mkdir()
    monkeypatch.delenv("nnUNet_ssl_config", raising=False)
    base = tmp_path / "preprocessed" / "Dataset007_X"
    (base / "gt_segmentations").mkdir(parents=True)
    labels = {"background": 0, "liver": 1, "spleen": 2}
    (base / "dataset.json").write_text(json.dumps({"file_ending": ".png", "labels": labels}), encoding="utf-8")
    for i in range(10):
        (base / "gt_segmentations" / f"case{i}.png").touch()
    (base / "nnUNetPlans.json").write_text(
        json.dumps({"plans_name": "nnUNetPlans", "configurations": {"2d": {}}}), encoding="utf-8"
    )
    return base


@pytest.fixture
def trainings(tmp_path) -> Trainings:
    return Trainings(tmp_path / "bin")
