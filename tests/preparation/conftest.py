"""Fixtures of the preprocessing of unlabeled cases."""

import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from unlabeled_images import LABELED, NAME, make_image, with_geometry
from workbench import InProcess, plan_fast


@pytest.fixture(scope="session")
def planned(tmp_path_factory):
    """A two-channel dataset, planned and preprocessed by nnU-Net (no process pools, for speed)."""
    root = tmp_path_factory.mktemp("planned")
    raw, base = root / "raw" / NAME, root / "preprocessed" / NAME
    for folder in ("imagesTr", "labelsTr", "imagesTs", "imagesUnlabeled"):
        (raw / folder).mkdir(parents=True)
    for i in range(6):
        spacing = (1.0, 1.1, 2.0 + 0.5 * (i % 2))  # half of them are resampled
        for channel in range(2):
            image = make_image(10 * i + channel, spacing=spacing)
            sitk.WriteImage(image, raw / "imagesUnlabeled" / f"un_{i}_{channel:04d}.nii.gz")
            if i < 4:
                sitk.WriteImage(image, raw / "imagesTr" / f"lab_{i}_{channel:04d}.nii.gz")
        label = np.zeros((20, 24, 22), np.uint8)
        label[6:12, 8:14, 8:14] = 1
        if i < 4:
            sitk.WriteImage(with_geometry(label, spacing), raw / "labelsTr" / f"lab_{i}.nii.gz")
    content = {
        "channel_names": {"0": "CT", "1": "T2"},
        "labels": {"background": 0, "thing": 1},
        "numTraining": 4,
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        for kind in ("raw", "preprocessed", "results"):
            (root / kind).mkdir(exist_ok=True)
            patch.setenv(f"nnUNet_{kind}", str(root / kind))
        plan_fast(patch)
        DatasetFingerprintExtractor(5, num_processes=1).run()
        ExperimentPlanner(5).plan_experiment()
    plans = PlansManager(str(base / "nnUNetPlans.json"))
    for name in ("2d", "3d_fullres"):
        configuration = plans.get_configuration(name)
        folder = base / configuration.data_identifier
        folder.mkdir()
        for case in LABELED:
            files = [str(raw / "imagesTr" / f"{case}_{channel:04d}.nii.gz") for channel in range(2)]
            label = str(raw / "labelsTr" / f"{case}.nii.gz")
            DefaultPreprocessor(verbose=False).run_case_save(
                str(folder / case), files, label, plans, configuration, content
            )
    return root


@pytest.fixture
def dataset(planned, tmp_path, monkeypatch):
    """A private copy of the planned dataset: ``.raw``, ``.base``, ``.images``, ``.out`` and its plans."""
    root = shutil.copytree(planned, tmp_path / "copy")
    for kind in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{kind}", str(root / kind))

    class Dataset:
        raw, base = root / "raw" / NAME, root / "preprocessed" / NAME
        images = raw / "imagesUnlabeled"
        out = base / "nnUNetPlans_3d_fullres_unlabeled"
        plans = PlansManager(str(base / "nnUNetPlans.json"))

    return Dataset


@pytest.fixture
def in_process(monkeypatch):
    monkeypatch.setattr("nnunet_ssl.pools.ProcessPoolExecutor", InProcess)
