"""The user's road with nnU-Net's own commands, from raw files to predictions, in real processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ssl.demo.phantom import write_phantom

BIN = Path(sys.executable).parent
TRAINER = "nnUNetTrainerMeanTeacher"
MODEL = ["-d", "7", "-c", "3d_fullres", "-tr", TRAINER, "-p", "nnUNetPlans_tiny"]
SHORT = "num_iterations_per_epoch: 3, num_val_iterations_per_epoch: 1"
# stock nnU-Net on a machine without this package
WITHOUT_US = """
import os, sys
os.environ.pop("nnUNet_extTrainer", None)
for name in [name for name in sys.modules if name.split(".")[0] == "nnunet_ssl"]:
    del sys.modules[name]
sys.modules["nnunet_ssl"] = None
from nnunetv2.inference.predict_from_raw_data import predict_entry_point_modelfolder
if __name__ == "__main__":
    predict_entry_point_modelfolder()
"""


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """A phantom with a plan of a few features, and a function that runs a command in its folders."""
    root = tmp_path_factory.mktemp("road")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("nnUNet_")}
    environment |= {f"nnUNet_{kind}": str(root / kind) for kind in ("raw", "preprocessed", "results")}
    environment |= {"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    for kind in ("raw", "preprocessed", "results"):
        (root / kind).mkdir()

    def run(command, *arguments, fails=False, **variables):
        program = [str(BIN / command)] if "/" not in command else [sys.executable, command]
        done = subprocess.run(
            [*program, *map(str, arguments)],
            capture_output=True,
            encoding="utf-8",
            env=environment | variables,
            cwd=root,
        )
        assert (done.returncode != 0) == fails, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout + done.stderr

    raw = root / "raw" / "Dataset007_Phantom"
    write_phantom(raw, labeled=4, unlabeled=4, test=2, shape=(20, 28, 28), classes=3)
    run("nnUNetv2_plan_and_preprocess", "-d", 7, "-c", "3d_fullres", "--verify_dataset_integrity", "-np", 1, "-npfp", 1)
    base = root / "preprocessed" / "Dataset007_Phantom"
    plans = json.loads((base / "nnUNetPlans.json").read_text(encoding="utf-8"))
    plans["plans_name"] = "nnUNetPlans_tiny"
    settings = plans["configurations"]["3d_fullres"]
    settings |= {"patch_size": [16, 16, 16], "batch_size": 2}
    settings["architecture"]["arch_kwargs"]["features_per_stage"] = [4, 6, 8][
        : len(settings["architecture"]["arch_kwargs"]["features_per_stage"])
    ]
    (base / "nnUNetPlans_tiny.json").write_text(json.dumps(plans), encoding="utf-8")
    return root, run


def voxels(folder: Path) -> dict[str, np.ndarray]:
    return {file.name: sitk.GetArrayFromImage(sitk.ReadImage(file)) for file in sorted(folder.glob("*.nii.gz"))}


@pytest.mark.slow
def test_from_raw_files_to_predictions(road):
    root, run = road
    images, results = root / "raw" / "Dataset007_Phantom" / "imagesTs", root / "results" / "Dataset007_Phantom"
    train = ["nnUNetv2_train", 7, "3d_fullres", 0, "-tr", TRAINER, "-p", "nnUNetPlans_tiny", "-device", "cpu"]
    assert "nnunet_ssl split -d 7 --folds 4" in run(*train, fails=True)
    run("nnunet_ssl", "split", "-d", 7, "--folds", 2)
    assert "imagesUnlabeled" in run(*train, fails=True)
    run("nnunet_ssl", "preprocess", "-d", 7, "-c", "3d_fullres", "-p", "nnUNetPlans_tiny", "-np", 1)
    run(*train, nnUNet_ssl_config=f"{{num_epochs: 1, {SHORT}}}")
    resumed = run(*train, "--c", nnUNet_ssl_config=f"{{num_epochs: 2, {SHORT}}}")
    assert "Epoch 1" in resumed and "Epoch 0" not in resumed
    model = results / f"{TRAINER}__nnUNetPlans_tiny__3d_fullres"
    assert (model / "fold_0" / "progress.png").stat().st_size > 10_000
    (model / "fold_0" / "validation" / "summary.json").unlink()
    run(*train, "--val", "--npz")
    assert "foreground_mean" in json.loads(
        (model / "fold_0" / "validation" / "summary.json").read_text(encoding="utf-8")
    )

    predict = ["-i", images, "-f", 0, "--disable_tta", "-device", "cpu", "-npp", 1, "-nps", 1, "--save_probabilities"]
    run("nnUNetv2_predict", *predict, "-o", root / "ours", *MODEL)
    run("nnunet_ssl", "export", *MODEL, "-f", 0, "-o", root / "model")
    (root / "without_us.py").write_text(WITHOUT_US, encoding="utf-8")
    run(str(root / "without_us.py"), *predict, "-o", root / "stock", "-m", root / "model")
    ours, stock = voxels(root / "ours"), voxels(root / "stock")
    assert len(ours) == 2 and ours.keys() == stock.keys()
    for name, image in ours.items():
        np.testing.assert_array_equal(image, stock[name])

    run("nnUNetv2_ensemble", "-i", root / "ours", root / "stock", "-o", root / "both", "-np", 1)
    assert voxels(root / "both").keys() == ours.keys()
    run("nnUNetv2_find_best_configuration", 7, "-c", "3d_fullres", "-tr", TRAINER, "-p", "nnUNetPlans_tiny", "-f", 0,
        "-np", 1)  # fmt: skip
    assert (results / "inference_instructions.txt").is_file()
    table = run("nnunet_ssl", "evaluate", images.with_name("labelsTs"), root / "ours", "-o", root / "metrics.json")
    metrics = json.loads((root / "metrics.json").read_text(encoding="utf-8"))["metrics"]
    assert set(metrics) >= {"dice", "jaccard", "hd95_mm", "asd_mm"}
    assert "dice" in table.lower()
