"""Predictions of the first stage of a cascade for the cases that a fold sees without their label.

The folder that results is described in `nnunet_ssl.data.previous_stage`.
"""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from nnunetv2.inference.export_prediction import resample_and_save
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from tqdm import tqdm

from nnunet_ssl.checkpoints import refuse_diverged
from nnunet_ssl.data.loader import UnlabeledPool, unlabeled_files
from nnunet_ssl.data.origin import Origin, present_origin
from nnunet_ssl.data.previous_stage import MARK, digest_of, predictions_folder, read_mark
from nnunet_ssl.data.raw import dataset_number, listed, preprocessed_folder
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import write_json, writing
from nnunet_ssl.locks import locked
from nnunet_ssl.pools import Pool
from nnunet_ssl.results.export import CHECKPOINT, trained_model_folder
from nnunet_ssl.training.lineage import UNKNOWN, origin_of, refuse_leaks

PARTIAL = ".partial"


def predict_unlabeled(
    dataset_id: int,
    trainer: str,
    folds: list[str],
    plans: str = "nnUNetPlans",
    configuration: str = "3d_lowres",
    device: str = "cuda",
    processes: int = 4,
) -> None:
    """Predicts for each fold its unlabeled cases with its own network, in the shape that the next stage wants.

    As nnU-Net does for validation cases: sliding window with mirroring, logits resampled. What the same checkpoint has
    predicted from images that have not changed since is kept. While a case is predicted, `processes` resample and write
    those before.

    Raises:
        InputError: there is no such training, it is no first stage, its checkpoint or an image is missing or damaged,
            its network has learned labels that the fold hides or validates on now, or the unlabeled cases are not
            preprocessed for both stages; another process predicts this fold, or the machine lacks something: what was
            finished is kept.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("There is no CUDA device. Predict with -device cpu.")
    base = preprocessed_folder(dataset_id)
    model = trained_model_folder(base.name, trainer, plans, configuration)
    for fold in folds:
        if not (fold.isdigit() or fold == "all"):
            raise InputError(f"-f {fold}: give the number of a fold, or all.")
        if not (model / f"fold_{fold}" / CHECKPOINT).is_file():
            raise InputError(
                f"{model / f'fold_{fold}' / CHECKPOINT} does not exist: train the fold to its end first, "
                f"`nnUNetv2_train {dataset_id} {configuration} {fold} -tr {trainer} -p {plans}`."
            )
    for fold in folds:
        predictor = _predictor(model, fold, device)
        stages = predictor.configuration_manager.next_stage_names
        if not stages:
            raise InputError(f"{configuration} of {plans} is not the first stage of a cascade; name that with -c.")
        images = {stage: _images(base, predictor, configuration, stage, fold) for stage in stages}
        origin = _checked_origin(base, predictor, configuration, fold, trainer, model / f"fold_{fold}" / CHECKPOINT)
        for stage in stages:
            with locked(predictions_folder(model / "predicted_next_stage" / stage, fold)):
                _predict_fold(predictor, model, fold, stage, images[stage], processes, origin)


def _predictor(model: Path, fold: str, device: str) -> nnUNetPredictor:
    predictor = nnUNetPredictor(device=torch.device(device), allow_tqdm=False)
    try:
        predictor.initialize_from_trained_model_folder(str(model), (fold,), CHECKPOINT)
    except (OSError, EOFError, RuntimeError, KeyError, TypeError, pickle.UnpicklingError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{model / f'fold_{fold}' / CHECKPOINT} cannot be used ({reason}): train it again.") from error
    refuse_diverged(model / f"fold_{fold}" / CHECKPOINT, *predictor.list_of_parameters)
    return predictor


def _checked_origin(
    base: Path, predictor: nnUNetPredictor, configuration: str, fold: str, trainer: str, checkpoint: Path
) -> Origin | None:
    """What the network has been trained on; None if it is unknown, which the second stage then takes or not."""
    origin = origin_of(checkpoint)
    if origin is None:
        print(f"fold {fold}: {checkpoint} is of an earlier version or a stock trainer: {UNKNOWN}.")
        return None
    now = present_origin(base, predictor.plans_manager.plans, configuration, fold, trainer, True, {})
    refuse_leaks(origin, now, str(checkpoint), f"train fold {fold} of {configuration} anew, without --c")
    return origin


def _images(
    base: Path, predictor: nnUNetPredictor, configuration: str, stage: str, fold: str
) -> tuple[dict[str, str], dict[str, str]]:
    """Preprocessed images of the fold's unlabeled cases, case -> file, for the first and for the next stage."""
    both = []
    for name in (configuration, stage):
        cases, hidden = unlabeled_files(base, predictor.plans_manager, name, fold)
        both.append(cases | hidden)
    if other := sorted(both[0].keys() ^ both[1].keys()):
        raise InputError(
            f"{listed(other, 5, ', ')} ({len(other)} in all) are preprocessed for one of {configuration} and {stage} "
            f"only: run `nnunet_ssl preprocess -d {dataset_number(base.name)} -c {configuration} {stage} "
            f"-p {predictor.plans_manager.plans_name}`."
        )
    return both[0], both[1]


def _predict_fold(
    predictor: nnUNetPredictor,
    model: Path,
    fold: str,
    stage: str,
    images: tuple[dict[str, str], dict[str, str]],
    processes: int,
    origin: Origin | None,
) -> None:
    folder = predictions_folder(model / "predicted_next_stage" / stage, fold)
    _keep_only_of(model / f"fold_{fold}" / CHECKPOINT, origin, folder)
    partial = folder / PARTIAL
    shutil.rmtree(partial, ignore_errors=True)
    first, second = (UnlabeledPool(files) for files in images)
    todo = [case for case in first.identifiers if not _is_done(folder / f"{case}.b2nd", images, case)]
    print(f"fold {fold}: {len(first.identifiers)} unlabeled cases, {len(todo)} to predict for {stage}.")
    if not todo:
        return
    partial.mkdir()
    common = (predictor.plans_manager, predictor.configuration_manager, predictor.dataset_json)

    def predicted() -> Iterator[tuple[str, tuple]]:
        for case in todo:
            logits = predictor.predict_logits_from_preprocessed_data(_read(first, case)).numpy()
            shape = second.load_image(case).shape[1:]
            yield case, (logits, shape, partial / case, folder / f"{case}.b2nd", *common)

    with Pool(min(processes, len(todo))) as pool:
        results = pool.run(_resample, predicted())
        results = dict(tqdm(results, total=len(todo), desc=f"Predicting unlabeled cases, fold {fold}"))
    shutil.rmtree(partial)
    if faults := [str(result) for result in results.values() if isinstance(result, InputError)]:
        raise InputError("\n  ".join([f"{len(faults)} case(s) of {folder} could not be predicted:", listed(faults)]))


def _resample(logits: np.ndarray, shape: tuple[int, ...], aside: Path, file: Path, plans, configuration, dataset_json):
    """Runs in a worker: nnU-Net's resampling and writing, aside, then renamed."""
    # nnU-Net asks the case's properties for its spacing along an axis that a 3D configuration resamples anyway; those
    # of a case with a hidden label tell where its classes are and stay closed
    properties = {"spacing": [1.0] * len(shape), "shape_after_cropping_and_before_resampling": shape}
    with writing(aside.with_name(f"{aside.name}.b2nd")):
        resample_and_save(
            *(torch.from_numpy(logits), shape, str(aside), plans, configuration, properties, dataset_json),
            num_threads_torch=1,
        )
    os.replace(f"{aside}.b2nd", file)


def _keep_only_of(checkpoint: Path, origin: Origin | None, folder: Path) -> None:
    """Removes predictions that another checkpoint has made, and marks the folder with this one."""
    mark = {"checkpoint": digest_of(checkpoint), "origin": origin.as_dict() if origin else None}
    file = folder / MARK
    if not file.is_file() or read_mark(folder)["checkpoint"] != mark["checkpoint"]:
        file.unlink(missing_ok=True)
        for old in folder.glob("*.b2nd"):
            old.unlink()
    write_json(mark, file)


def _is_done(prediction: Path, images: tuple[dict[str, str], dict[str, str]], case: str) -> bool:
    """Whether the prediction is there and younger than the images of both stages."""
    if not prediction.is_file():
        return False
    return prediction.stat().st_mtime_ns >= max(Path(files[case]).stat().st_mtime_ns for files in images)


def _read(pool: UnlabeledPool, case: str) -> torch.Tensor:
    try:
        return torch.from_numpy(pool.read_image(case))
    except RuntimeError as error:
        raise InputError(
            f"unlabeled case {case}: {pool.files[case]} is damaged ({error}); delete it and preprocess again."
        ) from error
