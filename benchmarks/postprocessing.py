"""nnU-Net's postprocessing for the rows of a benchmark, so that no method shines by what all could have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from batchgenerators.utilities.file_and_folder_operations import load_json, save_pickle
from nnunetv2.postprocessing.remove_connected_components import remove_all_but_largest_component_from_segmentation
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ssl.training.pseudo_labels import single_components


def write_rule(file: Path, predictions: Path, labels: Path, cases: Sequence[str]) -> list[list[int]]:
    """Writes the file that `nnUNetv2_apply_postprocessing -pp_pkl_file` reads, and returns its structures as labels.

    The largest component alone stays of each structure that is one component in every labeled case. nnU-Net decides on
    predictions of validation cases, of which a fold with a handful of labels has too few.

    Args:
        predictions: folder that nnUNetv2_predict wrote.
        labels: folder of the reference segmentations.
        cases: those whose labels the row's training has seen.
    """
    plans, dataset = PlansManager(load_json(str(predictions / "plans.json"))), load_json(f"{predictions}/dataset.json")
    reader = plans.image_reader_writer_class()
    segmentations = (reader.read_seg(str(labels / f"{case}{dataset['file_ending']}"))[0][0] for case in cases)
    found = single_components(segmentations, plans.get_label_manager(dataset))
    keep = [remove_all_but_largest_component_from_segmentation] * len(found)
    save_pickle((keep, [{"labels_or_regions": structure} for structure in found]), str(file))
    return [[int(label) for label in np.atleast_1d(structure)] for structure in found]
