"""The unlabeled cases that a training draws from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_ssl.data.loader import UnlabeledPool, unlabeled_files
from nnunet_ssl.data.previous_stage import check_predicted, predictions_folder
from nnunet_ssl.data.raw import dataset_number
from nnunet_ssl.data.unlabeled import unlabeled_folder
from nnunet_ssl.errors import InputError
from nnunet_ssl.training.lineage import check_first_stage, check_pseudo_labels
from nnunet_ssl.training.pseudo_labels import LABELS_LOST

if TYPE_CHECKING:
    from nnunet_ssl.training.trainer import SemiSupervisedTrainer


def unlabeled_pool(trainer: SemiSupervisedTrainer, labels: Path | None = None) -> UnlabeledPool:
    """The unlabeled folder and the cases whose labels the fold hides, with the pseudo-labels of a folder.

    Training cases in which structures were not annotated are among them, so that methods learn these, too; but in the
    second stage of a cascade, where only cases without any label have a prediction by the network of the fold itself.

    Raises:
        InputError: there is no unlabeled case, or one of them is also labeled or validated on, or, in the second
            stage of a cascade, the first stage has not predicted it.
    """
    train, val = trainer.do_split()
    base = trainer.preprocessed_dataset_folder_base
    partly = [] if trainer.is_cascaded else [case for case in train if case in trainer.not_annotated.declared]
    cases, hidden = unlabeled_files(base, trainer.plans_manager, trainer.configuration_name, trainer.fold, partly)
    folder = unlabeled_folder(base, trainer.configuration_manager)
    if twice := sorted(set(cases) & {*train, *val, *hidden}):
        raise InputError(
            f"{folder}: {', '.join(twice[:5])} ({len(twice)} in all) also stand among the labeled cases. Remove "
            "their images from imagesUnlabeled and run `nnunet_ssl preprocess` again."
        )
    images = trainer.preprocessed_dataset_folder
    files = cases | hidden | {case: str(Path(images) / f"{case}.b2nd") for case in partly}
    predictions = None
    if trainer.is_cascaded:
        predictions = predictions_folder(trainer.folder_with_segs_from_previous_stage, trainer.fold)
        remedy = (
            f"run `nnunet_ssl predict_next_stage -d {dataset_number(trainer.plans_manager.dataset_name)} "
            f"-tr {type(trainer).__name__} -p {trainer.plans_manager.plans_name} "
            f"-c {trainer.configuration_manager.previous_stage_name} -f {trainer.fold}`."
        )
        check_predicted(predictions, files, "unlabeled", remedy)
        arguments = (trainer.origin, remedy, trainer.accept_other_data, trainer.print_to_log_file)
        trainer._origin = check_first_stage(predictions, *arguments)
    trainer.print_to_log_file(
        f"{len(files)} unlabeled cases: {len(cases)} of {folder.name}, {len(hidden)} with hidden labels"
        + (f", {len(partly)} that are also labeled, where structures were not annotated" if partly else "")
    )
    if labels is not None:
        check_predicted(labels, files, "unlabeled", LABELS_LOST, "pseudo-label")
        check_pseudo_labels(labels, trainer.origin, LABELS_LOST)
    return UnlabeledPool(files, predictions, labels)
