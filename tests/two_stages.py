"""The two stages of a cascade of the phantom: their names, folders, predictions and faults."""

import json
from pathlib import Path

import pytest
import torch
from nnunetv2.run.run_training import get_trainer_from_args

from nnunet_ssl.errors import InputError
from nnunet_ssl.preparation.next_stage import predict_unlabeled

CPU = torch.device("cpu")
FIRST, SECOND = "3d_lowres", "3d_cascade_fullres"
SHORT = {"num_epochs": 1, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 1, "save_every": 1, "seed": 0}
PLANS = ["-p", "nnUNetPlans_tiny", "-device", "cpu"]
TRAINER = "nnUNetTrainerMeanTeacher"


def model(dataset, stage=FIRST, trainer=TRAINER) -> Path:
    return dataset.root / "results" / dataset.name / f"{trainer}__nnUNetPlans_tiny__{stage}"


def predictions(dataset, fold=0) -> Path:
    return model(dataset) / f"fold_{fold}" / "predicted_next_stage" / SECOND


def predict(dataset, fold="0", **arguments):
    predict_unlabeled(7, TRAINER, [fold], dataset.plans, **({"device": "cpu", "processes": 1} | arguments))


def fold_of(dataset, number=0) -> dict:
    return json.loads((dataset.base / "splits_final.json").read_text(encoding="utf-8"))[number]


def unlabeled_cases(dataset) -> set[str]:
    file = dataset.base / "nnUNetPlans_tiny_3d_lowres_unlabeled" / "unlabeled.json"
    return set(json.loads(file.read_text(encoding="utf-8"))["cases"])


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.stem: file.read_bytes() for file in folder.glob("*.b2nd")}


def refused(dataset, **arguments) -> str:
    with pytest.raises(InputError) as caught:
        predict(dataset, **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def setup_error(dataset) -> str:
    trainer = get_trainer_from_args(dataset.name, SECOND, 0, TRAINER, dataset.plans, False, CPU)
    with pytest.raises(InputError) as caught:
        trainer.run_training()
    assert str(caught.value).count("\n") <= 1
    return str(caught.value)
