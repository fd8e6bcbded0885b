"""Four real left-atrium scans through the converter, nnU-Net's planning, both streams and a short training."""

import json

import numpy as np
import torch
from nnunetv2.run.run_training import get_trainer_from_args
from workbench import prepare

from nnunet_ssl.conversion.writing import write_raw_dataset
from nnunet_ssl.dataset_conversion.la import la_conversion

TRAIN = ["06SR5RBREL16DQ6M8LWS", "0RZDK210BSMWAA6467LU", "1D7CUD1955YZPGK8XHJX"]
TEST = ["4CHFJGF6ZUM7CMZTNFQF"]


def test_a_short_training_on_real_scans(shared_data, tmp_path, monkeypatch):
    source = tmp_path / "source"
    folder = source / "2018LA_Seg_Training Set"
    folder.mkdir(parents=True)
    for case in [*TRAIN, *TEST]:
        (folder / case).symlink_to((shared_data / "la" / folder.name / case).resolve())
    (source / "train.list").write_text("\n".join(TRAIN) + "\n", encoding="utf-8")
    (source / "test.list").write_text("\n".join(TEST) + "\n", encoding="utf-8")

    def convert(raw):
        write_raw_dataset(la_conversion(source, 2), 7, raw.name.split("_", 1)[1])

    dataset = prepare(
        tmp_path / "work", "3d_fullres", [16, 32, 32], convert, "Dataset007_LA", spacing=[2.5, 2.5, 2.5]
    ).use(monkeypatch)
    assert sorted(file.name for file in (dataset.raw / "imagesUnlabeled").iterdir()) == [f"{TRAIN[2]}_0000.nii.gz"]
    manifest = dataset.base / "nnUNetPlans_tiny_3d_fullres_unlabeled" / "unlabeled.json"
    assert json.loads(manifest.read_text(encoding="utf-8"))["cases"] == TRAIN[2:]

    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setenv("nnUNet_ssl_config", "{num_epochs: 1, num_iterations_per_epoch: 4, seed: 0}")
    monkeypatch.setattr("nnunet_ssl.training.progress.ProgressLogger.plot_progress_png", lambda *args: None)
    trainer = get_trainer_from_args(
        dataset.name, "3d_fullres", 0, "nnUNetTrainerUAMT", dataset.plans, device=torch.device("cpu")
    )
    trainer.run_training()
    log = torch.load(f"{trainer.output_folder}/checkpoint_final.pth", weights_only=False)["logging"]
    assert np.isfinite(log["train_losses"]).all()
    assert 0 <= log["semi_supervised/certain_voxels"][0] <= 1
