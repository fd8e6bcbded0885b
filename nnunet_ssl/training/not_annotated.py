"""What was not annotated in labeled cases, as training and validation need it; see `nnunet_ssl.data.not_annotated`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from batchgenerators.utilities.file_and_folder_operations import load_pickle
from nnunetv2.evaluation.evaluate_predictions import load_summary_json, save_summary_json
from torch import Tensor

from nnunet_ssl.data.not_annotated import check_cases, contradiction, in_words, read_not_annotated
from nnunet_ssl.data.raw import listed
from nnunet_ssl.errors import InputError
from nnunet_ssl.training.task_of_trainer import channels_of, kind_of

if TYPE_CHECKING:
    from torch import nn

    from nnunet_ssl.training.configured import ConfiguredTrainer

Label = int | tuple[int, ...]  # of a class, or the labels of a region, as nnU-Net names them in its files


class NotAnnotated:
    """The channels that were not annotated in each labeled case of an initialized trainer.

    Attributes:
        declared: case id -> names of classes or regions.

    Raises:
        InputError: `dataset.json` names what is no class or no labeled case, or a class that a case's label has; the
            labels that the fold hides are not looked at.
    """

    def __init__(self, trainer: ConfiguredTrainer):
        self.file = Path(trainer.preprocessed_dataset_folder_base) / "dataset.json"
        self.declared = read_not_annotated(trainer.dataset_json, self.file)
        self.kind = kind_of(trainer.label_manager)
        self.channels = channels_of(trainer.label_manager, trainer.dataset_json)
        self.labels = {name: _label(value) for name, value in trainer.dataset_json["labels"].items()}
        if self.declared:
            self._check(trainer)

    def _check(self, trainer: ConfiguredTrainer) -> None:
        folder = trainer.preprocessed_dataset_folder
        check_cases(self.declared, trainer.dataset_class.get_identifiers(folder), self.file)
        faults = []
        for role, cases in zip(("training", "validation"), trainer.do_split(), strict=True):
            here = {case: self.declared[case] for case in cases if case in self.declared}
            for case, names in here.items():
                found = load_pickle(f"{folder}/{case}.pkl")["class_locations"]
                present = {_label(label) for label, voxels in found.items() if len(voxels)}
                if wrong := [name for name in names if self.labels[name] in present]:
                    faults.append(contradiction(case, wrong))
            if here:
                trainer.print_to_log_file(
                    f"not annotated in {len(here)} of {len(cases)} {role} cases: {in_words(here)}"
                )
        if faults:
            raise InputError(f"{self.file}: {listed(faults)}. Mend the entry, or the label and preprocess again.")

    def of(self, cases: Sequence[str], axes: int) -> Tensor | None:
        """Channels that were not annotated in the case of each patch, bool (B, C, 1, ...) of so many axes.

        None where the dataset has no such case at all: whether this batch has one must not matter, or ranks whose
        batches differ in this would wait for each other at different places.
        """
        if not self.declared:
            return None
        rows = [[name in self.declared.get(str(case), ()) for name in self.channels] for case in cases]
        return torch.tensor(rows).view(len(rows), len(self.channels), *[1] * (axes - 2))

    @contextmanager
    def left_out(self, network: nn.Module, missing: Tensor | None) -> Iterator[None]:
        """Within the context a network's logits do not tell what is missing from the background, see `Kind.merged`.

        So nnU-Net's own steps are right: their loss, and the pseudo Dice, for which nothing of it is predicted.
        """
        if missing is None:
            yield
            return

        def merge(module: nn.Module, inputs: Any, output: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
            if isinstance(output, Tensor):
                return self.kind.merged(output, missing)
            return [self.kind.merged(scale, missing) for scale in output]

        handle = network.register_forward_hook(merge)
        try:
            yield
        finally:
            handle.remove()

    def correct(self, summary_file: Path, ending: str) -> float | None:
        """Takes what was not annotated out of nnU-Net's `summary.json`: NaN there, and means over the others.

        Returns:
            The new mean Dice of the foreground; None if nothing in the file is missing.
        """
        summary, corrected = load_summary_json(str(summary_file)), False
        for case in summary["metric_per_case"]:
            for name in self.declared.get(Path(case["reference_file"]).name.removesuffix(ending), ()):
                values = case["metrics"][self.labels[name]]
                values.update(dict.fromkeys(values, float("nan")))
                corrected = True
        if not corrected:
            return None
        means = summary["mean"]
        for label, metrics in means.items():
            for metric in metrics:
                metrics[metric] = _mean([case["metrics"][label][metric] for case in summary["metric_per_case"]])
        for metric in summary["foreground_mean"]:
            summary["foreground_mean"][metric] = _mean([values[metric] for values in means.values()])
        save_summary_json(summary, str(summary_file))
        return summary["foreground_mean"]["Dice"]


def _label(value: Any) -> Label:
    """Of a class or region as nnU-Net has it in its files: a region of one label is this label."""
    labels = tuple(int(label) for label in np.atleast_1d(value))
    return labels if len(labels) > 1 else labels[0]


def _mean(values: list[float]) -> float:
    present = [value for value in values if not np.isnan(value)]
    return float(np.mean(present)) if present else float("nan")
