"""Fixtures of the runner's tests."""

import json
from pathlib import Path

import pytest
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from trainings import Trainings

from nnunet_ssl.data.unlabeled import MANIFEST, manifest_content

PLANS = {
    "plans_name": "nnUNetPlans",
    "dataset_name": "Dataset007_X",
    "image_reader_writer": "NaturalImage2DIO",
    "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2],
    "foreground_intensity_properties_per_channel": {},
    "configurations": {
        "2d": {
            "data_identifier": "nnUNetPlans_2d",
            "preprocessor_name": "DefaultPreprocessor",
            "spacing": [1.0, 1.0],
            "normalization_schemes": ["ZScoreNormalization"],
            "use_mask_for_norm": [False],
            "resampling_fn_data": "resample_data_or_seg_to_shape",
            "resampling_fn_data_kwargs": {},
            "patch_size": [32, 32],
            "architecture": {"network_class_name": "x", "arch_kwargs": {}, "_kw_requires_import": []},
        }
    },
}


@pytest.fixture
def dataset(tmp_path, monkeypatch) -> Path:
    """A preprocessed dataset of ten labeled cases and one unlabeled one, empty files as far as the runner looks."""
    for kind in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{kind}", str(tmp_path / kind))
        (tmp_path / kind).mkdir()
    monkeypatch.delenv("nnUNet_ssl_config", raising=False)
    base = tmp_path / "preprocessed" / "Dataset007_X"
    (base / "gt_segmentations").mkdir(parents=True)
    labels = {"background": 0, "liver": 1, "spleen": 2}
    (base / "dataset.json").write_text(json.dumps({"file_ending": ".png", "labels": labels}), encoding="utf-8")
    (base / "nnUNetPlans_2d").mkdir()
    for i in range(10):
        (base / "gt_segmentations" / f"case{i}.png").touch()
        (base / "nnUNetPlans_2d" / f"case{i}.b2nd").touch()
    (base / "nnUNetPlans.json").write_text(json.dumps(PLANS), encoding="utf-8")
    (base / "nnUNetPlans_2d_unlabeled").mkdir()
    for ending in ("b2nd", "pkl"):
        (base / "nnUNetPlans_2d_unlabeled" / f"more.{ending}").touch()
    manifest = manifest_content(PlansManager(PLANS), "2d", ["more"])
    (base / "nnUNetPlans_2d_unlabeled" / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    return base


@pytest.fixture
def trainings(tmp_path) -> Trainings:
    return Trainings(tmp_path / "bin")
