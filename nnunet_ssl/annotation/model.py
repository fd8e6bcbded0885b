"""The trained model that scores: one fold or several, known to fit the preprocessed cases as they are now."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ssl.annotation.predictor import ScoringPredictor
from nnunet_ssl.checkpoints import read_whole, refuse_diverged
from nnunet_ssl.data.plans import read_plans
from nnunet_ssl.data.previous_stage import digest_of
from nnunet_ssl.data.raw import listed, preprocessed_folder, read_dataset_json
from nnunet_ssl.data.unlabeled import plans_fingerprint
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import is_plain_name, read_json
from nnunet_ssl.results.export import trained_model_folder

BRING_BACK = "train the model anew, or bring the file back"


@dataclass(frozen=True)
class Model:
    """A predictor with its weights, and what they are."""

    base: Path
    predictor: ScoringPredictor
    plans: PlansManager
    configuration: str
    folds: tuple[str, ...]
    mark: dict[str, Any]  # as `suggested.json` has it


def load_model(
    dataset_id: int,
    configuration: str,
    trainer: str,
    folds: list[str],
    plans_name: str,
    checkpoint: str,
    device: str,
    mirroring: bool,
) -> Model:
    """The model of `nnUNet_results` with these names, on its device.

    Raises:
        InputError: there is none, a fold has no such checkpoint, one is damaged, of another network or of a
            training that diverged, plans or labels are no longer those of the training, or it is the second stage of a
            cascade.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("There is no CUDA device. Score with -device cpu.")
    base = preprocessed_folder(dataset_id)
    plans = read_plans(base, plans_name, dataset_id)
    if configuration not in plans.available_configurations:
        raise InputError(f"No configuration {configuration} in the plans {plans_name} of {base.name}.")
    if plans.get_configuration(configuration).previous_stage_name is not None:
        raise InputError(
            f"{configuration} is the second stage of a cascade, which reads predictions of the first: suggest with the "
            f"first, -c {plans.get_configuration(configuration).previous_stage_name}."
        )
    folder = trained_model_folder(base.name, trainer, plans_name, configuration)
    folds = list(dict.fromkeys(folds))
    weights = {fold: _weights(folder, fold, checkpoint) for fold in folds}
    _require_same_data(folder, base, plans, configuration)
    with redirect_stdout(io.StringIO()):  # where nnU-Net lists all files in which it looks for the trainer
        predictor = ScoringPredictor(
            use_mirroring=mirroring,
            perform_everything_on_device=device == "cuda",
            device=torch.device(device),
            allow_tqdm=False,
        )
        with _refusing(folder / f"fold_{folds[0]}" / checkpoint):
            predictor.initialize_from_trained_model_folder(str(folder), tuple(folds), checkpoint)
    for fold, parameters in weights.items():
        with _refusing(folder / f"fold_{fold}" / checkpoint):
            predictor.network.load_state_dict(parameters)
    predictor.begin()
    mark = {
        "dataset": base.name,
        "trainer": trainer,
        "plans": plans_name,
        "configuration": configuration,
        "mirroring": mirroring,
        "checkpoints": {fold: digest_of(folder / f"fold_{fold}" / checkpoint) for fold in folds},
    }
    return Model(base, predictor, plans, configuration, tuple(folds), mark)


@contextmanager
def _refusing(file: Path) -> Iterator[None]:
    """What nnU-Net and torch raise on weights that do not fit becomes an InputError."""
    try:
        yield
    except (OSError, RuntimeError, LookupError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{file} cannot be used ({reason[:200]}): train it again.") from error


def _weights(folder: Path, fold: str, checkpoint: str) -> dict[str, Any]:
    """Of one fold, from a file that is whole."""
    if not (fold.isdigit() or fold == "all"):
        raise InputError(f"-f {fold[:20]}: give the number of a fold, or all.")
    if not is_plain_name(checkpoint):
        raise InputError(f"-chk {checkpoint[:60]!r} names no checkpoint of {folder}.")
    file = folder / f"fold_{fold}" / checkpoint
    if not file.is_file():
        trained = sorted(found.parent.name for found in folder.glob(f"fold_*/{checkpoint}"))
        raise InputError(
            f"{file} does not exist: train fold {fold} to its end, or name another fold or -chk. With this checkpoint "
            f"there are: {listed(trained, separator=', ') or 'none'}."
        )
    content, fault = read_whole(file, "cpu")
    if fault or not isinstance(content, dict) or not isinstance(content.get("network_weights"), dict):
        raise InputError(f"{file} is no whole checkpoint ({(fault or 'it has no weights')[:200]}): train it again.")
    weights = content["network_weights"]
    refuse_diverged(file, weights)
    return weights


def _require_same_data(folder: Path, base: Path, plans: PlansManager, configuration: str) -> None:
    """Raises InputError unless the model reads voxels, and names labels, as the preprocessed cases have them."""
    file, now = folder / "plans.json", base / f"{plans.plans_name}.json"
    try:
        same = plans_fingerprint(PlansManager(read_json(file, BRING_BACK)), configuration)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file} cannot be used ({error!r:.100}): {BRING_BACK}.") from None
    if same != plans_fingerprint(plans, configuration):
        raise InputError(
            f"{folder} was trained with other plans than {now} is now (other spacing, normalization or resampling): "
            "train it anew, or put the plans back."
        )
    labels = [read_dataset_json(place / "dataset.json", BRING_BACK).get("labels") for place in (folder, base)]
    if labels[0] != labels[1]:
        raise InputError(
            f"{folder / 'dataset.json'} has other labels than {base / 'dataset.json'} has now: train the model anew."
        )
