"""Pseudo-labels of whole unlabeled cases: nnU-Net's sliding window and, where the labels allow it, its postprocessing.

They lie in the fold's folder, segmentations (*spatial) of the preprocessed images, anew for each phase of a training.
What a method leaves out has the number after the last label::

    fold_0/pseudo_labels/phase_1/CASE.b2nd
    fold_0/pseudo_labels/phase_1/nnunet_ssl_origin.json    what the network that labels was trained on
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import blosc2
import numpy as np
import torch
from acvl_utils.morphology.morphology_helper import label_with_component_sizes
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.postprocessing.remove_connected_components import remove_all_but_largest_component_from_segmentation
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import LabelManager, convert_labelmap_to_one_hot
from torch import distributed as dist
from torch import nn

from nnunet_ssl.data.loader import UnlabeledPool
from nnunet_ssl.data.origin import ORIGIN_FILE, Origin
from nnunet_ssl.distributed import world_size
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import write_json, writing
from nnunet_ssl.networks.net import deep_supervision, unwrap

if TYPE_CHECKING:
    from nnunet_ssl.training.trainer import SemiSupervisedTrainer

FOLDER = "pseudo_labels"
LABELS_LOST = "the network that made them is gone; train from the start, without --c."
MAX_LOST = 0.01  # share of a structure that may lie outside its largest component in a labeled case
Structure = int | tuple[int, ...]  # a label, or the labels of a region


def structures(labels: LabelManager) -> list[Structure]:
    """What nnU-Net's postprocessing looks at, in its order: all foreground as one, then each class or region."""
    everything = tuple(map(int, labels.foreground_labels))
    if not labels.has_regions:
        return [everything, *everything] if len(everything) > 1 else [*everything]
    regions = [tuple(map(int, np.atleast_1d(region))) for region in labels.foreground_regions]
    return [everything, *(region for region in regions if set(region) != set(everything))]


def single_components(segmentations: Iterable[np.ndarray], labels: LabelManager) -> list[Structure]:
    """The structures that are one connected component, up to `MAX_LOST` of them, in every labeled case that has them.

    nnU-Net decides on predictions of validation cases; a fold with a handful of labels has too few of these. Where
    annotations are sparse (an ignore label) nothing can be said.

    Args:
        segmentations: label maps (*spatial) of the labeled training cases.
    """
    if labels.has_ignore_label:
        return []
    found = dict.fromkeys(structures(labels), 0)
    broken = set()
    for segmentation in segmentations:
        segmentation = np.where(segmentation < 0, 0, segmentation)
        for structure in found.keys() - broken:
            mask = np.isin(segmentation, structure)
            if not (size := mask.sum()):
                continue
            found[structure] += 1
            _, components = label_with_component_sizes(mask)
            if max(components.values()) < (1 - MAX_LOST) * size:
                broken.add(structure)
    return [structure for structure, cases in found.items() if cases and structure not in broken]


def unknown_label(labels: LabelManager) -> int:
    """What stands in pseudo-labels for voxels that they leave out: nnU-Net's ignore label, also where there is none."""
    return int(max(labels.all_labels)) + 1


def partial_loss(trainer: nnUNetTrainer) -> nn.Module:
    """The loss that a trainer would build if its data set had an ignore label."""
    labels, content = trainer.label_manager, trainer.dataset_json
    if labels.has_ignore_label:
        return trainer.loss
    sparse = {**content["labels"], "ignore": unknown_label(labels)}
    trainer.label_manager = trainer.plans_manager.get_label_manager(content | {"labels": sparse})
    try:
        return trainer._build_loss()
    finally:
        trainer.label_manager = labels


def predictor_of(trainer: nnUNetTrainer) -> nnUNetPredictor:
    """nnU-Net's predictor with the student of a trainer, which goes into evaluation."""
    predictor = nnUNetPredictor(
        use_mirroring=False,
        perform_everything_on_device=trainer.device.type == "cuda",
        device=trainer.device,
        allow_tqdm=False,
    )
    network, plans = unwrap(trainer.network).eval(), (trainer.plans_manager, trainer.configuration_manager)
    predictor.manual_initialization(network, *plans, None, trainer.dataset_json, type(trainer).__name__, None)
    return predictor


def begin_folder(folder: Path, origin: Origin) -> None:
    """An empty folder for the labels of a network of this origin; those of an earlier phase or training go."""
    shutil.rmtree(folder, ignore_errors=True)
    write_json(origin.as_dict(), folder / ORIGIN_FILE)


def labels_folder(trainer: SemiSupervisedTrainer, phase: int) -> Path:
    """Where the labels for a phase lie, 1 or later."""
    return Path(trainer.output_folder) / FOLDER / f"phase_{phase}"


def label_unlabeled_cases(trainer: SemiSupervisedTrainer, pool: UnlabeledPool, phase: int) -> None:
    """The student of a trainer labels all cases of its pool for a phase that begins; each rank labels its share.

    A run that is stopped meanwhile labels all of them again when it goes on.
    """
    folder = labels_folder(trainer, phase)
    if trainer.local_rank == 0:
        begin_folder(folder, trainer.origin)
    if trainer.is_ddp:
        dist.barrier()
    dataset, _ = trainer.get_tr_and_val_datasets()
    whole = [case for case in dataset.identifiers if case not in trainer.not_annotated.declared]
    segmentations = (dataset.load_case(case)[1][0] for case in whole)  # others may lack parts of the foreground
    single = single_components(segmentations, trainer.label_manager)
    trainer.print_to_log_file(f"pseudo-labels of {len(pool.identifiers)} cases; largest component alone of {single}")
    predictor = predictor_of(trainer)
    before_each = (lambda: None) if trainer.is_ddp else trainer.stop_if_asked  # ranks have other numbers of cases
    with deep_supervision(predictor.network, False):
        mine = pool.identifiers[trainer.local_rank :: world_size()]
        label_cases(predictor, pool, mine, single, folder, before_each, trainer.method.known_voxels)
    if trainer.is_ddp:
        dist.barrier()


def label_cases(
    predictor: nnUNetPredictor,
    pool: UnlabeledPool,
    cases: Iterable[str],
    single: Sequence[Structure],
    folder: Path,
    before_each: Callable[[], None] = lambda: None,
    known_voxels: Callable[[str, torch.Tensor], torch.Tensor] | None = None,
) -> None:
    """Writes the pseudo-label of each case; each file appears as a whole.

    Without mirroring, which costs eight times as much.

    Args:
        predictor: with the network that labels.
        cases: those of the pool to label.
        single: structures of which only the largest component stays, see `single_components`.
        before_each: called before each case; may end the training.
        known_voxels: see `Method`; the others get the label `unknown_label`.

    Raises:
        ValueError: `known_voxels` gives something else than it must.
        InputError: the disk is full or the folder cannot be written.
    """
    labels = predictor.label_manager
    aside = folder / f".{os.getpid()}.partial"
    for case in cases:
        before_each()
        image = pool.read_image(case)
        if pool.previous_stage is not None:
            first = pool.load_prediction(case, image.shape[1:])[:]
            image = np.vstack((image, convert_labelmap_to_one_hot(first, labels.foreground_labels, image.dtype)))
        with torch.inference_mode():
            logits = predictor.predict_sliding_window_return_logits(torch.from_numpy(image)).float()
            segmentation = labels.convert_logits_to_segmentation(logits).cpu().numpy().astype(np.int16)
            known = None if known_voxels is None else _checked(known_voxels(case, logits), case, segmentation.shape)
        for structure in single:
            segmentation = remove_all_but_largest_component_from_segmentation(segmentation, structure)
        if known is not None:
            segmentation[~known] = unknown_label(labels)
        aside.unlink(missing_ok=True)
        try:
            with writing(aside):
                blosc2.asarray(np.ascontiguousarray(segmentation), urlpath=str(aside), mode="w")
            os.replace(aside, folder / f"{case}.b2nd")
        except OSError as error:
            with contextlib.suppress(OSError):
                aside.unlink()
            raise InputError(
                f"{case}: its pseudo-label cannot be written to {folder} ({error.strerror}). Make room or give the "
                "right to write; --c labels all cases again."
            ) from error


def _checked(known: torch.Tensor, case: str, shape: tuple[int, ...]) -> np.ndarray:
    if known.dtype != torch.bool or known.shape != shape:
        raise ValueError(
            f"{case}: known_voxels gives {known.dtype} of the shape {tuple(known.shape)}, not bool of {shape}."
        )
    return known.cpu().numpy()
