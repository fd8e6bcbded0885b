"""nnU-Net's trainer with overrides: what the supervised baseline and the semi-supervised trainers share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from os.path import isfile, join
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import nnUNetTrainerDA5
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from torch import Tensor

import nnunet_ssl
from nnunet_ssl.data.origin import ORIGIN_FILE, Origin, data_differences, present_origin
from nnunet_ssl.data.raw import dataset_number
from nnunet_ssl.data.splits import read_splits
from nnunet_ssl.distributed import of_all_ranks
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import write_json
from nnunet_ssl.locks import locked
from nnunet_ssl.method import Method
from nnunet_ssl.networks.net import set_deep_supervision, unwrap
from nnunet_ssl.preparation.planning import hidden_labels_of_fold
from nnunet_ssl.training import lineage, pretrained
from nnunet_ssl.training.not_annotated import NotAnnotated
from nnunet_ssl.training.patience import OutOfPatience, reason_to_stop
from nnunet_ssl.training.random_state import seed_everything
from nnunet_ssl.training.resumable import ResumableTrainer
from nnunet_ssl.training.settings import Settings, read_settings
from nnunet_ssl.training.workers import Workers

NNUNET_FOLDS = 5
DA5_SIDE = 6  # voxels; nnU-Net's transform takes the logarithm of a sixth of each side


class ConfiguredTrainer(ResumableTrainer):
    """nnU-Net's trainer whose settings can be overridden by the variable `nnUNet_ssl_config`.

    Alone it is the supervised baseline at any training length; see `nnunet_ssl.training.settings` for the keys.

    Attributes:
        method: the paper's `Method`, stated by a subclass; None for the supervised baseline.
        defaults: hyperparameters of the method that a subclass changes, as ablations do.
        augmentation: nnU-Net's own ("default"), or the stronger one of its trainer `nnUNetTrainerDA5` ("da5").
    """

    method: type[Method] | None = None
    defaults: dict[str, Any] = {}
    augmentation: str = "default"

    def __init_subclass__(cls, **kwargs) -> None:
        super().__init_subclass__(**kwargs)
        # nnU-Net forgets the module of an external trainer right after the import, so the file is kept here
        cls.file = getattr(sys.modules.get(cls.__module__), "__file__", cls.__module__)

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 (nnU-Net's signature, recorded by inspection)
    ):
        super().__init__(plans, configuration, fold, dataset_json, device)
        # nnU-Net reads the scales of deep supervision off the network's strides: one without them has one output
        if "strides" not in self.configuration_manager.network_arch_init_kwargs:
            self.enable_deep_supervision = False
        self.seed: int | None = None
        self.accept_other_data = False
        self.patience: int | None = None
        self._origin: Origin | None = None
        self.settings: Settings = read_settings(type(self).method)
        for name, value in self.settings.trainer.items():
            setattr(self, name, value)
        if self.augmentation == "da5":
            self.get_training_transforms = nnUNetTrainerDA5.get_training_transforms
        # nnU-Net searches its own folder first, where another trainer of this name may lie: say which one runs
        self.print_to_log_file(f"nnunet_ssl {nnunet_ssl.__version__}: {type(self).__name__} of {self.file}")
        self.print_to_log_file(f"overrides: {self.settings}")

    def initialize(self) -> None:
        patch = [*self.configuration_manager.patch_size]
        if self.augmentation == "da5" and min(patch) < DA5_SIDE:
            raise InputError(
                f"augmentation: da5 is for patches of {DA5_SIDE} voxels or more along each axis, and the plans have "
                f"{' x '.join(map(str, patch))}: leave it out."
            )
        if self.seed is not None and not self.was_initialized:
            seed_everything(self.seed)
        base = self.preprocessed_dataset_folder_base
        self.plans_saw_hidden_labels = len(hidden_labels_of_fold(self.plans_manager.plans, self.fold, base))
        self.print_to_log_file(f"labels that this fold hides and the plans saw: {self.plans_saw_hidden_labels}")
        if file := pretrained.file_asked_for():
            weights = pretrained.read_weights(file)
            arguments = (self._present_origin(), self.accept_other_data, self.print_to_log_file)
            self._origin = lineage.begun_with(file, weights.content, *arguments)
            pretrained.load_in_nnunets_place(self, lambda: self.load_pretrained_weights(weights))
        super().initialize()
        self.not_annotated = NotAnnotated(self)

    def load_pretrained_weights(self, weights: pretrained.PretrainedWeights) -> None:
        """`-pretrained_weights`, for the student and the further networks of the method; says which got what.

        Raises:
            InputError: the weights are of another architecture.
        """
        pretrained.begin_with(weights, unwrap(self.network), self.method, self.print_to_log_file)

    # ------------------------------------------------------------------ what it is made of

    @property
    def origin(self) -> Origin:
        """What this training is made of; the splits are read once, when it begins or goes on."""
        if self._origin is None:
            self._origin = self._present_origin()
        return self._origin

    def _present_origin(self) -> Origin:
        method = type(self).method
        origin = present_origin(
            Path(self.preprocessed_dataset_folder_base),
            self.plans_manager.plans,
            self.configuration_name,
            self.fold,
            type(self).__name__,
            bool(method and method.reads_unlabeled()),
            self.settings.overrides,
            self.do_split(),
        )
        return replace(origin, num_epochs=self.num_epochs, num_iterations_per_epoch=self.num_iterations_per_epoch)

    def check_same_data(self) -> None:
        """Raises InputError if the fold's data have changed since this training began or went on."""
        if changed := data_differences(self.origin, self._present_origin()):
            raise InputError(
                f"The data of fold {self.fold} changed while it trained: {'; '.join(changed)}. Put them back and "
                "continue with --c, or train the fold anew."
            )

    def on_train_start(self) -> None:
        if not self.was_initialized:
            self.initialize()
        now = self._present_origin()  # before the loaders read the splits
        if self.resumed:
            what = f"The checkpoint in {self.output_folder}"
            arguments = (what, self.current_epoch, self.accept_other_data, self.print_to_log_file)
            self._origin = lineage.continued(self._origin, now, *arguments)
        elif self._origin is None:  # else it began with pretrained weights
            self._origin = now
        super().on_train_start()
        if self.local_rank == 0 and not self.disable_checkpointing:
            if not self.resumed:
                lineage.set_aside(Path(self.output_folder), self.print_to_log_file)
            write_json(self.origin.as_dict(), Path(self.output_folder) / ORIGIN_FILE)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """nnU-Net's.

        Raises:
            InputError: the folds have changed: the network has learned labels that it is measured on; or another
                process trains or validates this fold.
        """
        lineage.refuse_leaks(
            self.origin,
            self._present_origin(),
            f"The network in {self.output_folder}",
            "put the splits_final.json of its training back, then validate with --val",
        )
        with self._fold_alone():
            super().perform_actual_validation(save_probabilities)
            if self.local_rank == 0 and self.not_annotated.declared:
                file = Path(self.output_folder) / "validation" / "summary.json"
                mean = self.not_annotated.correct(file, self.dataset_json["file_ending"])
                if mean is not None:
                    self.print_to_log_file(
                        f"Mean Validation Dice without what was not annotated: {mean}; {file} is corrected",
                        also_print_to_console=True,
                    )

    # ------------------------------------------------------------------ structures that were not annotated

    def missing_in(self, batch: dict) -> Tensor | None:
        """Channels not annotated in the case of each patch, bool (B, C, 1, ...) on the device; as `NotAnnotated.of`."""
        missing = self.not_annotated.of(batch["keys"], batch["data"].ndim)
        if missing is not None and self.device.type == "cuda":
            missing = missing.pin_memory()  # else the host would wait for the copy
        return None if missing is None else missing.to(self.device, non_blocking=True)

    def train_step(self, batch: dict) -> dict:
        """nnU-Net's, which learns nothing of what was not annotated."""
        with self.not_annotated.left_out(self.network, self.missing_in(batch)):
            return super().train_step(batch)

    def validation_step(self, batch: dict) -> dict:
        """nnU-Net's, whose loss and pseudo Dice leave out what was not annotated."""
        with self.not_annotated.left_out(self.network, self.missing_in(batch)):
            return super().validation_step(batch)

    # ------------------------------------------------------------------ checkpoints

    def check_state(self, checkpoint: dict[str, Any], filename: str) -> None:
        before, now = lineage.origin_in(checkpoint, filename), self._present_origin()
        self._origin = lineage.loaded(before, now, filename, self.accept_other_data, self.print_to_log_file)

    def own_state(self) -> dict[str, Any]:
        settings = {"settings": self.settings.trainer, "preset": self.settings.preset}
        return super().own_state() | settings | {lineage.KEY: self.origin.as_dict()}

    # ------------------------------------------------------------------ nnU-Net's

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        set_deep_supervision(self.network, enabled)

    def run_training(self) -> None:
        """nnU-Net's loop.

        Raises:
            InputError: another process trains or validates this fold; what it writes stays whole.
        """
        with self._fold_alone():
            super().run_training()

    def on_epoch_start(self) -> None:
        """nnU-Net's.

        Raises:
            OutOfPatience: the pseudo Dice has not risen for so many epochs.
        """
        history = self.logger.get_value("ema_fg_dice", step=None)
        if reason := reason_to_stop(history, self.patience, self.num_epochs, self.first_epoch_that_counts):
            self.print_to_log_file(f"{reason}. checkpoint_final.pth is of epoch {self.current_epoch - 1}, the last.")
            self._origin = replace(self.origin, stopped=reason)
            if self.local_rank == 0 and not self.disable_checkpointing:
                write_json(self.origin.as_dict(), Path(self.output_folder) / ORIGIN_FILE)
            raise OutOfPatience
        super().on_epoch_start()

    @property
    def first_epoch_that_counts(self) -> int:
        """From which on the pseudo Dice is compared for early stopping."""
        return 0

    @contextmanager
    def _fold_alone(self) -> Iterator[None]:
        """nnU-Net lets two trainings of one fold overwrite each other's checkpoints."""
        with ExitStack() as lock:
            refusal = ""
            if self.local_rank == 0:
                try:
                    lock.enter_context(locked(Path(self.output_folder)))
                except InputError as error:
                    refusal = str(error)
            if refusal := of_all_ranks(refusal)[0]:  # no rank waits for another that has ended
                raise InputError(refusal)
            yield

    def on_train_end(self) -> None:
        super().on_train_end()
        if self.device.type == "cuda":
            self.print_to_log_file(f"peak memory: {torch.cuda.max_memory_allocated(self.device) / 2**20:.0f} MB")
        elif sys.platform == "linux":
            import resource  # is not there on Windows, and counts in other units elsewhere

            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            self.print_to_log_file(f"peak memory: {peak / 2**10:.0f} MB")

    def do_split(self) -> tuple[list[str], list[str]]:
        """nnU-Net's folds.

        Raises:
            InputError: there are fewer labeled cases than nnU-Net makes folds.
        """
        splits_file = join(self.preprocessed_dataset_folder_base, "splits_final.json")
        if isfile(splits_file):
            read_splits(splits_file)  # nnU-Net takes it as it is
        cases = infer_dataset_class(self.preprocessed_dataset_folder).get_identifiers(self.preprocessed_dataset_folder)
        if self.fold != "all" and len(cases) < NNUNET_FOLDS and not isfile(splits_file):
            dataset_id = dataset_number(self.plans_manager.dataset_name)
            raise InputError(
                f"{len(cases)} labeled cases cannot make nnU-Net's {NNUNET_FOLDS} folds: run `nnunet_ssl split -d "
                f"{dataset_id} --folds {max(2, len(cases))}` first, or train on all of them with fold `all`."
            )
        return super().do_split()

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple:
        """nnU-Net's geometry of the training patches, or that of its stronger augmentation."""
        if self.augmentation == "da5":
            return nnUNetTrainerDA5.configure_rotation_dummyDA_mirroring_and_inital_patch_size(self)
        return super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()

    def get_dataloaders(self) -> tuple:
        """nnU-Net's loaders in nnU-Net's worker pools, with what a subclass joins to the training batches.

        With a seed, workers get seeds that differ by stream, worker, rank, first epoch and first step within it.
        """
        with without_workers():
            train, val = (augmenter.data_loader for augmenter in super().get_dataloaders())
        loaders = self.join_streams(train), val
        if (processes := get_allowed_n_proc_DA()) == 0:
            return tuple(SingleThreadedAugmenter(loader, None) for loader in loaders)
        augmenters = []
        for loader, workers in zip(loaders, (processes, max(1, processes // 2)), strict=True):
            seeds = None
            if self.seed is not None:
                start = [self.seed, self.current_epoch, self.local_rank, len(augmenters)]
                start += [len(steps) for steps in self.done_before.values() if steps]
                seeds = [int(seed) for seed in np.random.SeedSequence(start).generate_state(workers)]
            augmenters.append(
                Workers(
                    loader,
                    num_processes=workers,
                    num_cached=max(6 if loader is not val else 3, workers // 2),
                    seeds=seeds,
                    pin_memory=self.device.type == "cuda",
                    wait_time=0.002,
                )
            )
            next(augmenters[-1])
        return tuple(augmenters)

    def join_streams(self, labeled: nnUNetDataLoader) -> Iterator[dict]:
        """What training batches come from: nnU-Net's labeled loader alone."""
        return labeled


@contextmanager
def without_workers() -> Iterator[None]:
    """Within the context nnU-Net builds its loaders without starting the processes that would copy them."""
    before = os.environ.get("nnUNet_n_proc_DA")
    os.environ["nnUNet_n_proc_DA"] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ["nnUNet_n_proc_DA"]
        else:
            os.environ["nnUNet_n_proc_DA"] = before
