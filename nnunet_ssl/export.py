"""Writes a trained model for machines without this package: stock nnU-Net reads it as a model of `nnUNetTrainer`."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import torch

from nnunet_ssl.data.raw import environment_folder
from nnunet_ssl.errors import InputError

STOCK_TRAINER = "nnUNetTrainer"
CHECKPOINT = "checkpoint_final.pth"
# what nnU-Net reads when it predicts, beside the trainer's name
PREDICTION_KEYS = ("network_weights", "init_args", "inference_allowed_mirroring_axes")
FILES = ("plans.json", "dataset.json", "dataset_fingerprint.json")


def export_model(model_folder: Path, folds: list[str], out: Path, checkpoint: str = CHECKPOINT) -> Path:
    """Writes a model folder for `nnUNetv2_predict_from_modelfolder -m OUT -f FOLDS` of stock nnU-Net.

    The deployed network of a semi-supervised training has nnU-Net's own architecture, so only the trainer's name is
    replaced and the state of the training left out.

    Args:
        model_folder: trainer__plans__configuration folder in `nnUNet_results`.
        folds: fold numbers as text, or "all".
        out: a folder that does not exist yet; written aside and renamed.
        checkpoint: file name of the checkpoint to export.

    Raises:
        InputError: a checkpoint is missing or damaged, or `out` exists.
    """
    if out.exists():
        raise InputError(f"{out} exists already: name a new folder.")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name in FILES:
        if (model_folder / name).is_file():
            shutil.copyfile(model_folder / name, partial / name)
    for fold in folds:
        source = model_folder / f"fold_{fold}" / checkpoint
        if not source.is_file():
            raise InputError(f"{source} does not exist: train fold {fold} first, or name other folds with -f.")
        (partial / f"fold_{fold}").mkdir()
        torch.save(stock_checkpoint(source), partial / f"fold_{fold}" / CHECKPOINT)
    os.replace(partial, out)
    return out


def stock_checkpoint(file: Path) -> dict:
    """The checkpoint as stock nnU-Net's trainer would name it, without the state of the training.

    Raises:
        InputError: the file is no checkpoint of nnU-Net.
    """
    try:
        with torch.serialization.safe_globals(_LOGGED_TYPES):
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError) as error:
        raise InputError(f"{file} cannot be read ({error}).") from None
    missing = [key for key in PREDICTION_KEYS if key not in checkpoint]
    if missing:
        raise InputError(f"{file} is no nnU-Net checkpoint: it lacks {', '.join(missing)}.")
    return {key: checkpoint[key] for key in PREDICTION_KEYS} | {"trainer_name": STOCK_TRAINER}


# nnU-Net's own log in the checkpoint holds numpy numbers
_LOGGED_TYPES = [
    np._core.multiarray.scalar if hasattr(np, "_core") else np.core.multiarray.scalar,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float16", "float32", "float64", "int32", "int64", "bool")),
]


def trained_model_folder(dataset: str, trainer: str, plans: str, configuration: str) -> Path:
    """<nnUNet_results>/DATASET/TRAINER__PLANS__CONFIGURATION.

    Raises:
        InputError: nothing was trained there; names what was.
    """
    base = environment_folder("nnUNet_results") / dataset
    folder = base / f"{trainer}__{plans}__{configuration}"
    if not folder.is_dir():
        trained = sorted(entry.name for entry in base.glob("*__*__*")) if base.is_dir() else []
        raise InputError(f"{folder} does not exist. Trained so far for {dataset}: {', '.join(trained) or 'nothing'}.")
    return folder
