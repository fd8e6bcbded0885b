"""Writes a trained model for machines without this package: stock nnU-Net reads it as a model of `nnUNetTrainer`."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_ssl.checkpoints import CHECKPOINT_KEY, networks_of, read_whole, refuse_diverged
from nnunet_ssl.data.origin import ORIGIN_FILE, in_words, read_origin
from nnunet_ssl.data.raw import environment_folder, listed
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import is_plain_name, require_new_folder, write_json, writing
from nnunet_ssl.locks import locked
from nnunet_ssl.names import suggestion
from nnunet_ssl.networks.architecture import planned_architecture
from nnunet_ssl.training.lineage import origin_in

STOCK_TRAINER = "nnUNetTrainer"
CHECKPOINT = "checkpoint_final.pth"
# what nnU-Net reads when it predicts, beside the trainer's name
PREDICTION_KEYS = ("network_weights", "init_args", "inference_allowed_mirroring_axes")
FILES = ("plans.json", "dataset.json", "dataset_fingerprint.json")


def export_model(
    model_folder: Path, folds: list[str], out: Path, member: str | None = None, checkpoint: str = CHECKPOINT
) -> list[str]:
    """Writes a model folder for `nnUNetv2_predict_from_modelfolder -m OUT -f FOLDS` of stock nnU-Net.

    Most networks of a semi-supervised training have nnU-Net's own architecture, so only the trainer's name is replaced
    and the state of the training left out; other networks are refused. A model of two averaged networks becomes two
    folds, which nnU-Net averages. What each fold was trained on lies beside its checkpoint, as in the results.

    Args:
        model_folder: trainer__plans__configuration folder in `nnUNet_results`.
        folds: fold numbers as text, or "all".
        out: a folder that does not exist yet; written aside and renamed.
        member: of a method with two networks, "first" (the student), "second" (its twin) or "both"; None for what the
            method deploys.
        checkpoint: file name of the checkpoint to export.

    Returns:
        the folds written: those asked for, or 0, 1, 2... where each becomes two.

    Raises:
        InputError: a checkpoint is missing or damaged, has no second network, or `out` exists or is being written.
    """
    require_new_folder(out, "-o")
    if wrong := [name for name in (checkpoint, *folds) if not is_plain_name(name)]:
        raise InputError(f"{wrong[0][:60]!r} names no fold or checkpoint of {model_folder}.")
    sources = {fold: model_folder / f"fold_{fold}" / checkpoint for fold in folds}
    if not sources:
        raise InputError(f"{model_folder} has no fold with a {checkpoint}: train one first.")
    with locked(out):
        if out.exists():
            raise InputError(f"{out} exists already: name a new folder.")
        return _write(model_folder, sources, out, member)


def _write(model_folder: Path, sources: dict[str, Path], out: Path, member: str | None) -> list[str]:
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for name in FILES:
            if (model_folder / name).is_file():
                shutil.copyfile(model_folder / name, partial / name)
        written: list[str] = []
        for fold, source in sources.items():
            if not source.is_file():
                raise InputError(f"{source} does not exist: train fold {fold} first, or name other folds with -f.")
            checkpoint_of_fold = _load(source)
            origin = origin_in(checkpoint_of_fold, source)
            networks = stock_checkpoints(checkpoint_of_fold, source, member)
            for content in networks:
                written.append(fold if len(networks) == 1 else str(len(written)))
                folder = partial / f"fold_{written[-1]}"
                folder.mkdir()
                with writing(folder / CHECKPOINT):
                    torch.save(content, folder / CHECKPOINT)
                if origin:
                    write_json(origin.as_dict(), folder / ORIGIN_FILE)
        os.replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return written


def data_in_words(model: Path, folds: list[str]) -> list[str]:
    """What the folds of an exported model were trained on, a line for each, and what their average has learned."""
    origins = {fold: read_origin(model / f"fold_{fold}") for fold in folds}
    lines = [f"fold {fold}: {in_words(origin) if origin else 'of unknown data'}" for fold, origin in origins.items()]
    known = [origin for origin in origins.values() if origin]
    hidden = {case for origin in known for case in origin.hidden}
    if both := sorted(hidden.intersection(case for origin in known for case in origin.learned)):
        lines.append(
            f"ATTENTION: the average over these folds has learned {len(both)} label(s) that one of them hides "
            f"({listed(both, separator=', ')}): it is no model of that fraction of the labels."
        )
    return lines


def stock_checkpoints(checkpoint: Any, file: Path, member: str | None = None) -> list[dict]:
    """The checkpoints, one per network, as stock nnU-Net's trainer would name them, without the training's state.

    Args:
        checkpoint: what `file` holds.

    Raises:
        InputError: it is no checkpoint of nnU-Net, lacks the member asked for, its network is not nnU-Net's, or its
            training diverged.
    """
    configuration = _configuration(checkpoint, file)
    network = configuration.network_arch_class_name
    if network.startswith("nnunet_ssl."):
        raise InputError(f"{file}: its network is {network}, which only nnU-Net with this package can build.")
    members = _members(checkpoint, member, file)
    for weights in members:
        _require_stock(weights, configuration, file)
    refuse_diverged(file, *members)
    common = {key: checkpoint[key] for key in PREDICTION_KEYS} | {"trainer_name": STOCK_TRAINER}
    return [common | {"network_weights": weights} for weights in members]


def _require_stock(weights: dict, configuration: ConfigurationManager, file: Path) -> None:
    """Raises InputError unless the weights have the names of those of the plan's network."""
    planned = planned_architecture(configuration, 1, 2, deep_supervision=True)().state_dict()  # of any channels
    if strange := sorted(weights.keys() ^ planned.keys()):
        raise InputError(
            f"{file}: its network is not that of its plans ({listed(strange, 3)}), so that only nnU-Net with the "
            "trainer can build it."
        )


def _load(file: Path) -> Any:
    content, fault = read_whole(file, "cpu")
    if fault:
        raise InputError(f"{file} cannot be read: it is damaged, or holds more than data ({fault[:200]}).")
    return content


def _configuration(checkpoint: Any, file: Path) -> ConfigurationManager:
    """That a checkpoint was trained with; raises InputError unless it is a checkpoint of nnU-Net."""
    missing = [key for key in PREDICTION_KEYS if not isinstance(checkpoint, dict) or key not in checkpoint]
    if missing:
        raise InputError(f"{file} is no nnU-Net checkpoint: it lacks {', '.join(missing)}.")
    weights, arguments = checkpoint["network_weights"], checkpoint["init_args"]
    state = checkpoint.get(CHECKPOINT_KEY, {})
    known = isinstance(weights, dict) and isinstance(state, dict) and all(isinstance(key, str) for key in weights)
    axes = checkpoint["inference_allowed_mirroring_axes"]
    try:
        configuration = PlansManager(dict(arguments["plans"])).get_configuration(arguments["configuration"])
        network = configuration.network_arch_class_name
    except (LookupError, TypeError, AttributeError, ValueError, RuntimeError, AssertionError) as error:
        raise InputError(f"{file} is no nnU-Net checkpoint: its plans cannot be used ({error!r:.100}).") from None
    if not known or not isinstance(network, str) or not isinstance(axes, tuple | list | None):
        raise InputError(f"{file} is no nnU-Net checkpoint: its entries have other types than nnU-Net's.")
    return configuration


def _members(checkpoint: dict, member: str | None, file: Path) -> list[dict]:
    """The weights asked for: a model of two networks deploys their average, or the first of them."""
    deployed = checkpoint["network_weights"]
    first, second = networks_of(checkpoint)
    if member is None and first is deployed:
        return [deployed]
    if not second:
        raise InputError(f"{file} has one network only: leave out --member {member}.")
    if member != "first" and second.keys() != first.keys():
        raise InputError(
            f"{file}: its second network is of another kind, which stock nnU-Net cannot build from these plans; take "
            "the first one with --member first."
        )
    return [first] if member == "first" else [second] if member == "second" else [first, second]


def trained_model_folder(dataset: str, trainer: str, plans: str, configuration: str) -> Path:
    """<nnUNet_results>/DATASET/TRAINER__PLANS__CONFIGURATION.

    Raises:
        InputError: nothing was trained there; names what was.
    """
    base = environment_folder("nnUNet_results") / dataset
    folder = base / f"{trainer}__{plans}__{configuration}"
    if not folder.is_dir():
        trained = sorted(entry.name for entry in base.glob("*__*__*")) if base.is_dir() else []
        raise InputError(f"{folder} does not exist. Trained so far for {dataset}: {suggestion(folder.name, trained)}")
    return folder
