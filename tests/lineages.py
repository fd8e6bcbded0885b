"""Short trainings of a fold by nnU-Net's command, and changes of the data that they were made of."""

import json
import multiprocessing.dummy
import sys
from pathlib import Path

import pytest
import torch
from nnunetv2.run.run_training import run_training_entry

from nnunet_ssl.errors import InputError

SHORT = {"num_epochs": 1, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 1, "save_every": 1, "seed": 0}
TRAINERS = ("nnUNetTrainerSupervised", "nnUNetTrainerMeanTeacher")
SEMI = "nnUNetTrainerMeanTeacher"


def in_one_process(patched) -> None:
    patched.setenv("nnUNet_n_proc_DA", "0")
    patched.setattr("nnunet_ssl.training.progress.ProgressLogger.plot_progress_png", lambda *args: None)
    patched.setattr("nnunetv2.training.logging.nnunet_logger.MetaLogger.plot_progress_png", lambda *args: None)
    patched.setattr("multiprocessing.get_context", lambda method: multiprocessing.dummy)
    patched.setattr("torch.set_num_threads", lambda number: None)


def train(patched, *options, trainer=SEMI, fold="0", **settings) -> None:
    """`nnUNetv2_train 7 3d_fullres FOLD -tr TRAINER OPTIONS` with an `nnUNet_ssl_config`."""
    patched.setenv("nnUNet_ssl_config", json.dumps(SHORT | settings))
    names = ["7", "3d_fullres", fold, "-tr", trainer, "-p", "nnUNetPlans_tiny", "-device", "cpu"]
    patched.setattr(sys, "argv", ["nnUNetv2_train", *names, *map(str, options)])
    run_training_entry()


def fold_of(dataset, trainer=SEMI, fold=0) -> Path:
    return dataset.root / "results" / dataset.name / f"{trainer}__nnUNetPlans_tiny__3d_fullres" / f"fold_{fold}"


def split_of(dataset, fold=0) -> dict:
    return json.loads((dataset.base / "splits_final.json").read_text(encoding="utf-8"))[fold]


def set_split(dataset, fold=0, **lists) -> None:
    file = dataset.base / "splits_final.json"
    splits = json.loads(file.read_text(encoding="utf-8"))
    splits[fold] |= lists
    file.write_text(json.dumps(splits), encoding="utf-8")


def hide(dataset) -> str:
    """As `nnunet_ssl split --labeled 1 --force`."""
    first, second = split_of(dataset)["train"]
    set_split(dataset, train=[first], unlabeled=[second])
    return second


def refused(*arguments, **settings) -> str:
    with pytest.raises(InputError) as caught:
        train(*arguments, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def loaded(fold: Path, name="checkpoint_final.pth") -> dict:
    return torch.load(fold / name, map_location="cpu", weights_only=False)
