"""What a trainer of nnU-Net knows of its data set, as methods may know it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from torch import Tensor

from nnunet_ssl.data.adopted import adopted_share
from nnunet_ssl.kinds import Classes, Kind, Regions
from nnunet_ssl.task import Task

if TYPE_CHECKING:
    from nnunet_ssl.training.trainer import SemiSupervisedTrainer


def task_of(trainer: SemiSupervisedTrainer) -> Task:
    """The task of an initialized trainer."""
    labels = trainer.label_manager
    return Task(
        channels=channels_of(labels, trainer.dataset_json),
        kind=kind_of(labels),
        ignore_label=labels.ignore_label,
        batch_dice=trainer.configuration_manager.batch_dice,
        scale_weights=tuple(trainer.loss.weight_factors) if trainer.enable_deep_supervision else (1.0,),
        image_channels=trainer.num_input_channels,
        labeled_batch_size=trainer.batch_size,
        unlabeled_batch_size=trainer.unlabeled_share(),
        patch_size=tuple(trainer.configuration_manager.patch_size),
        spacing=tuple(trainer.configuration_manager.spacing),
        mirror_axes=tuple(trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()[-1] or ()),
        voxel_counts=lambda: voxel_counts(trainer),
        labeled_cases=tuple(trainer.do_split()[0]),
        labeled_folder=trainer.preprocessed_dataset_folder,
        adopted_share=adopted_share(Path(trainer.preprocessed_dataset_folder_base)),
    )


def channels_of(labels: LabelManager, dataset_json: dict[str, Any]) -> tuple[str, ...]:
    """Names of the output channels: classes, the background first, or regions."""
    values = {name: value for name, value in dataset_json["labels"].items() if name != "ignore"}
    if labels.has_regions:  # nnU-Net keeps their order and leaves the background out
        return tuple(name for name, value in values.items() if np.any(value))
    return tuple(sorted(values, key=values.__getitem__))


def kind_of(labels: LabelManager) -> Kind:
    """Whether the output channels are classes or regions."""
    return (Regions if labels.has_regions else Classes)(labels.num_segmentation_heads)


def voxel_counts(trainer: SemiSupervisedTrainer) -> Tensor:
    """Voxels of each output channel over the labeled training cases, as preprocessed; see `Task.voxel_counts`.

    The background of a case in which structures were not annotated is not counted: it may be these.
    """
    labels = trainer.label_manager
    dataset, _ = trainer.get_tr_and_val_datasets()
    by_label = np.zeros(max(labels.all_labels) + 1, dtype=np.int64)
    for case in dataset.identifiers:
        segmentation = dataset.load_case(case)[1][0].astype(np.int64)
        segmentation[segmentation < 0] = 0  # outside of nnU-Net's crop to non-zero
        known = segmentation[segmentation < len(by_label)]  # not the ignore label
        counts = np.bincount(known, minlength=len(by_label))
        counts[0] *= case not in trainer.not_annotated.declared
        by_label += counts
    if not labels.has_regions:
        return torch.from_numpy(by_label).double()
    regions = [np.unique(np.atleast_1d(region)) for region in labels.foreground_regions]
    in_none = np.setdiff1d(np.arange(len(by_label)), np.concatenate(regions))
    return torch.tensor([by_label[region].sum() for region in [*regions, in_none]]).double()
