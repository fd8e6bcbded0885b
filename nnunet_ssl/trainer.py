"""The trainer that joins a method and an unlabeled stream to nnU-Net's training loop."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from os.path import isfile, join

import numpy as np
import torch
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.helpers import dummy_context
from torch import Tensor, autocast, nn
from torch import distributed as dist

import nnunet_ssl
from nnunet_ssl.configured_trainer import ConfiguredTrainer
from nnunet_ssl.data.loader import STREAM, TwoStreamLoader, UnlabeledLoader, UnlabeledPool
from nnunet_ssl.data.splits import check_fold, read_splits, unlabeled_of_fold
from nnunet_ssl.data.unlabeled import read_cases, unlabeled_folder
from nnunet_ssl.data.views import Views
from nnunet_ssl.distributed import average_gradients, broadcast_state, mean_over_ranks, world_size
from nnunet_ssl.errors import InputError
from nnunet_ssl.method import Labeled, Method, Now, Task, Unlabeled
from nnunet_ssl.networks.net import Net, Output, deep_supervision, unwrap
from nnunet_ssl.networks.own_optimizer import MAX_GRADIENT_NORM, OwnOptimizer
from nnunet_ssl.networks.teacher import Teacher
from nnunet_ssl.progress import ProgressLogger
from nnunet_ssl.random_state import get_random_state, seed_everything, set_random_state

CHECKPOINT_KEY = "semi_supervised"


class SemiSupervisedTrainer(ConfiguredTrainer):
    """nnU-Net's trainer with an unlabeled stream and a `Method`; a subclass only states `method`.

    `self.network` is the student with nnU-Net's architecture, wrapped and compiled by nnU-Net. In validation and in
    checkpoints the network that the method deploys stands in its place.
    """

    method: type[Method]

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008
    ):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.unlabeled_batch_size = self.settings.trainer.get(
            "unlabeled_batch_size", self.configuration_manager.batch_size
        )
        self.hyperparameters = type(self).method.hyperparameters() | self.defaults | self.settings.method
        self.logger.local_logger = ProgressLogger()
        self._resumed_random_state: dict | None = None
        self._iteration = 0  # within the epoch

    # ------------------------------------------------------------------ set-up

    def initialize(self) -> None:
        """nnU-Net's own set-up, then the method's.

        Raises:
            NotImplementedError: the method or the unlabeled stream cannot do what the plans ask for, with the reason.
        """
        if self.is_cascaded:
            raise NotImplementedError(
                f"{self.configuration_name} is the second stage of a cascade and needs first-stage predictions of the "
                "unlabeled cases, which cannot be made yet. Train 3d_fullres or 3d_lowres."
            )
        super().initialize()
        self.net = Net(self.network, self.label_manager.has_regions)
        self.method = type(self).method(**self.hyperparameters)
        self.method.supervised = self._supervised_loss
        self.method.task = self._task()
        self.method.setup(self.net, self._new_network)
        self.method.to(self.device)
        broadcast_state(self.method)
        if self.is_ddp and self.seed is not None:
            seed_everything(self.seed + 1000 * self.local_rank)  # the same start, different noise
        own = [module for module in self.method.modules() if isinstance(module, OwnOptimizer) and module.joint]
        elsewhere = {parameter for module in own for parameter in module.trained}
        if parameters := [parameter for parameter in self._method_parameters() if parameter not in elsewhere]:
            self.optimizer.add_param_group({"params": parameters})
        self.optimizers = [self.optimizer, *(module.optimizer for module in own)]

    def _new_network(self) -> nn.Module:
        """Another network of the plan's architecture, with its own random weights."""
        return self.build_network_architecture(
            self.plans_manager,
            self.configuration_manager,
            self.num_input_channels,
            self.label_manager.num_segmentation_heads,
            self.enable_deep_supervision,
        ).to(self.device)

    def _task(self) -> Task:
        labels = self.label_manager
        values = {name: value for name, value in self.dataset_json["labels"].items() if name != "ignore"}
        if labels.has_regions:  # nnU-Net keeps their order and leaves the background out
            channels = [name for name, value in values.items() if np.any(value)]
        else:
            channels = sorted(values, key=values.get)
        return Task(
            channels=tuple(channels),
            regions=labels.has_regions,
            ignore_label=labels.ignore_label,
            batch_dice=self.configuration_manager.batch_dice,
            scale_weights=tuple(self.loss.weight_factors) if self.enable_deep_supervision else (1.0,),
            image_channels=self.num_input_channels,
            unlabeled_batch_size=self._unlabeled_share(),
            patch_size=tuple(self.configuration_manager.patch_size),
            spacing=tuple(self.configuration_manager.spacing),
            mirror_axes=tuple(self.configure_rotation_dummyDA_mirroring_and_inital_patch_size()[-1] or ()),
            voxel_counts=self._labeled_voxel_counts,
        )

    def _labeled_voxel_counts(self) -> Tensor:
        """Voxels of each output channel over the labeled training cases, as preprocessed; see `Task.voxel_counts`."""
        labels = self.label_manager
        dataset, _ = self.get_tr_and_val_datasets()
        by_label = np.zeros(max(labels.all_labels) + 1, dtype=np.int64)
        for case in dataset.identifiers:
            segmentation = dataset.load_case(case)[1][0].astype(np.int64)
            segmentation[segmentation < 0] = 0  # outside of nnU-Net's crop to non-zero
            known = segmentation[segmentation < len(by_label)]  # not the ignore label
            by_label += np.bincount(known, minlength=len(by_label))
        if not labels.has_regions:
            return torch.from_numpy(by_label).double()
        regions = [np.unique(np.atleast_1d(region)) for region in labels.foreground_regions]
        in_none = np.setdiff1d(np.arange(len(by_label)), np.concatenate(regions))
        return torch.tensor([by_label[region].sum() for region in [*regions, in_none]]).double()

    def _method_parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.method.parameters() if parameter.requires_grad]

    def _supervised_loss(self, output: Output, target: Tensor | list[Tensor]) -> Tensor:
        if self.enable_deep_supervision and len(output.pyramid) == 1:  # a second network that has no such outputs
            return self.loss.loss(output.logits, target[0])
        return self.loss(output.pyramid if self.enable_deep_supervision else output.logits, target)

    # ------------------------------------------------------------------ data

    def join_streams(self, labeled: nnUNetDataLoader) -> TwoStreamLoader:
        """Each training batch also carries an unlabeled one, made by the same workers."""
        views = Views(labeled.transforms, type(self).method.views)
        unlabeled = UnlabeledLoader(self._unlabeled_pool(), self._unlabeled_share(), labeled, views, self.label_manager)
        return TwoStreamLoader(labeled, unlabeled)

    def _unlabeled_pool(self) -> UnlabeledPool:
        """The unlabeled folder and the cases whose labels this fold hides.

        Raises:
            InputError: there is no unlabeled case, or one of them is also labeled or validated on.
        """
        train, val = self.do_split()
        hidden = []
        splits_file = join(self.preprocessed_dataset_folder_base, "splits_final.json")
        if self.fold != "all" and isfile(splits_file):
            splits = read_splits(splits_file)
            if self.fold < len(splits):
                check_fold(splits[self.fold], splits_file)
            hidden = unlabeled_of_fold(splits, self.fold)
        folder = unlabeled_folder(self.preprocessed_dataset_folder_base, self.configuration_manager)
        cases = []
        if folder.is_dir() or not hidden:
            cases = read_cases(folder, self.plans_manager, self.configuration_name, self.plans_manager.dataset_name)
        if not issubclass(self.dataset_class, nnUNetDatasetBlosc2):
            raise NotImplementedError(
                f"{self.preprocessed_dataset_folder} holds nnU-Net's older npz files; run nnUNetv2_preprocess again."
            )
        if twice := sorted(set(cases) & {*train, *val, *hidden}):
            raise InputError(
                f"{folder}: {', '.join(twice[:5])} ({len(twice)} in all) also stand among the labeled cases. Remove "
                "their images from imagesUnlabeled and run `nnunet_ssl preprocess` again."
            )
        files = {case: join(folder, f"{case}.b2nd") for case in cases}
        files |= {case: join(self.preprocessed_dataset_folder, f"{case}.b2nd") for case in hidden}
        self.print_to_log_file(
            f"{len(files)} unlabeled cases: {len(cases)} of {folder.name}, {len(hidden)} with hidden labels"
        )
        return UnlabeledPool(files)

    def _unlabeled_share(self) -> int:
        """This rank's part of the unlabeled batch."""
        world = world_size()
        if self.unlabeled_batch_size < world:
            raise InputError(f"unlabeled_batch_size = {self.unlabeled_batch_size} is smaller than {world} GPUs.")
        return self.unlabeled_batch_size // world + (self.local_rank < self.unlabeled_batch_size % world)

    # ------------------------------------------------------------------ training

    def on_train_start(self) -> None:
        super().on_train_start()
        if self._resumed_random_state is None:
            for module in self.method.modules():
                if isinstance(module, Teacher):  # the student may have got pretrained weights since set-up
                    module.copy_weights(self.net)
        else:
            set_random_state(self._resumed_random_state)

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.method.train()
        self._iteration = 0

    def train_step(self, batch: dict) -> dict[str, Tensor]:
        """One step; returns the total loss, its terms and the method's report, all still on the device."""
        labeled = Labeled(self._to_device(batch["data"]), self._to_device(batch["target"]))
        unlabeled = Unlabeled(
            **{view: self._to_device(batch[STREAM + view]) for view in type(self.method).views},
        )
        step = self.current_epoch * self.num_iterations_per_epoch + self._iteration
        now = Now(step, self.current_epoch, step / (self.num_epochs * self.num_iterations_per_epoch))

        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.method.report.clear()
        with autocast("cuda") if self.device.type == "cuda" else dummy_context():
            terms = self.method.losses(self.net, labeled, unlabeled, now)
            loss = sum(terms.values())
        self._update(loss)
        self.method.after_step(self.net, now)
        self._iteration += 1
        return {"loss": loss.detach()} | {name: term.detach() for name, term in terms.items()} | self.method.report

    def _to_device(self, data: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
        if isinstance(data, list):
            return [self._to_device(scale) for scale in data]
        return data.to(self.device, non_blocking=True)

    def _update(self, loss: Tensor) -> None:
        """Backward, averaging over ranks, clipping per network, optimizer steps; as nnU-Net does for its own."""
        scaler = self.grad_scaler
        (scaler.scale(loss) if scaler is not None else loss).backward()
        average_gradients(self._method_parameters())
        for optimizer in self.optimizers:
            if scaler is not None:
                scaler.unscale_(optimizer)
            for group in optimizer.param_groups:
                torch.nn.utils.clip_grad_norm_(group["params"], group.get("max_norm", MAX_GRADIENT_NORM))
            if scaler is not None:
                scaler.step(optimizer)
            else:
                optimizer.step()
        if scaler is not None:
            scaler.update()

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        names = list(train_outputs[0])
        means = torch.zeros(len(names), device=self.device)
        for index, name in enumerate(names):
            values = [out[name] for out in train_outputs]
            on_device = isinstance(values[0], Tensor)
            means[index] = torch.stack(values).float().mean() if on_device else sum(values) / len(values)
        epoch_means = dict(zip(names, mean_over_ranks(means).tolist(), strict=True))
        super().on_train_epoch_end([{"loss": epoch_means.pop("loss")}])
        self.logger.local_logger.log_terms(epoch_means, self.current_epoch)
        for logger in self.logger.loggers:
            for name, value in epoch_means.items():
                logger.log(name, value, self.current_epoch)
        self.print_to_log_file("terms", ", ".join(f"{name} {value:.4g}" for name, value in epoch_means.items()))

    # ------------------------------------------------------------------ validation and checkpoints

    @contextmanager
    def _deployed(self, with_scales: bool) -> Iterator[None]:
        """Puts the network that predicts in the student's place."""
        student, deployed = self.network, self.method.deployed(self.net)
        if deployed is unwrap(student):
            yield
            return
        self.network = deployed
        try:
            with deep_supervision(deployed, with_scales):
                yield
        finally:
            self.network = student

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self.method.eval()

    def validation_step(self, batch: dict) -> dict:
        with self._deployed(self.enable_deep_supervision):
            return super().validation_step(batch)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        with self._deployed(False):
            super().perform_actual_validation(save_probabilities)

    def save_checkpoint(self, filename: str) -> None:
        """nnU-Net's checkpoint with the deployed network as `network_weights` and one entry of ours, written aside."""
        random_states = self._all_random_states()
        if self.local_rank != 0:
            return
        if self.disable_checkpointing:
            self.print_to_log_file("No checkpoint written, checkpointing is disabled")
            return
        student, deployed = unwrap(self.network), self.method.deployed(self.net)
        checkpoint = {
            "network_weights": deployed.state_dict(),
            "optimizer_state": self.optimizer.state_dict(),
            "grad_scaler_state": self.grad_scaler.state_dict() if self.grad_scaler is not None else None,
            "logging": self.logger.get_checkpoint(),
            "_best_ema": self._best_ema,
            "current_epoch": self.current_epoch + 1,
            "init_args": self.my_init_kwargs,
            "trainer_name": self.__class__.__name__,
            "inference_allowed_mirroring_axes": self.inference_allowed_mirroring_axes,
            CHECKPOINT_KEY: {
                "method": self.method.state_dict(),
                "student": None if deployed is student else student.state_dict(),
                "random_states": random_states,
                "hyperparameters": self.hyperparameters,
                "settings": self.settings.trainer,
                "preset": self.settings.preset,
                "version": nnunet_ssl.__version__,
            },
        }
        partial = f"{filename}.partial"
        torch.save(checkpoint, partial)
        os.replace(partial, filename)

    def load_checkpoint(self, filename_or_checkpoint: str) -> None:
        """Resumes all of nnU-Net's and the method's state.

        Raises:
            InputError: the checkpoint was not written by this trainer.
        """
        checkpoint = torch.load(filename_or_checkpoint, map_location=self.device, weights_only=False)
        ours = checkpoint.get(CHECKPOINT_KEY)
        if ours is None or checkpoint["trainer_name"] != type(self).__name__:
            raise InputError(
                f"{filename_or_checkpoint} was written by {checkpoint['trainer_name']}, not {type(self).__name__}, and "
                "cannot be continued. To start from its weights, use -pretrained_weights."
            )
        if not self.was_initialized:
            self.initialize()
        student = checkpoint["network_weights"] if ours["student"] is None else ours["student"]
        unwrap(self.network).load_state_dict(student)
        self.method.load_state_dict(ours["method"])
        self.optimizer.load_state_dict(checkpoint["optimizer_state"])
        if self.grad_scaler is not None and checkpoint["grad_scaler_state"] is not None:
            self.grad_scaler.load_state_dict(checkpoint["grad_scaler_state"])
        self.my_init_kwargs = checkpoint["init_args"]
        self.current_epoch = checkpoint["current_epoch"]
        self.logger.load_checkpoint(checkpoint["logging"])
        self._best_ema = checkpoint["_best_ema"]
        self.inference_allowed_mirroring_axes = checkpoint["inference_allowed_mirroring_axes"]
        self._resumed_random_state = ours["random_states"][self.local_rank % len(ours["random_states"])]
        if ours["hyperparameters"] != self.hyperparameters:
            self.print_to_log_file(f"continuing with {self.hyperparameters}; before: {ours['hyperparameters']}")

    def _all_random_states(self) -> list[dict]:
        if world_size() == 1:
            return [get_random_state()]
        states = [None] * world_size()
        dist.all_gather_object(states, get_random_state())
        return states
