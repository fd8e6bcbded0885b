"""The trainer that joins a method and an unlabeled stream to nnU-Net's training loop."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.helpers import dummy_context
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import Tensor, autocast, nn

from nnunet_ssl.augmentation.mixing import BoxMixing, joined
from nnunet_ssl.augmentation.strong_views import StrongViews
from nnunet_ssl.data.loader import STREAM, TwoStreamLoader, UnlabeledLoader
from nnunet_ssl.data.previous_stage import check_predicted
from nnunet_ssl.data.views import Views
from nnunet_ssl.distributed import average_gradients, broadcast_state, world_size
from nnunet_ssl.errors import InputError
from nnunet_ssl.losses.supervised import Supervised
from nnunet_ssl.method import Labeled, Method, Now, Unlabeled
from nnunet_ssl.networks.architecture import planned_architecture
from nnunet_ssl.networks.net import Net, deep_supervision, unwrap
from nnunet_ssl.networks.own_optimizer import MAX_GRADIENT_NORM, OwnOptimizer
from nnunet_ssl.networks.teacher import Teacher
from nnunet_ssl.schedules import Phases, Restarted
from nnunet_ssl.training import case_maps, label_picture
from nnunet_ssl.training.configured import ConfiguredTrainer
from nnunet_ssl.training.early_signs import SHARE, signs, signs_of_phase
from nnunet_ssl.training.lean import patches_at_once
from nnunet_ssl.training.progress import ProgressLogger, epoch_means
from nnunet_ssl.training.pseudo_labels import label_unlabeled_cases, labels_folder, partial_loss, unknown_label
from nnunet_ssl.training.random_state import seed_everything
from nnunet_ssl.training.strong_views import generator_of, made_on_device
from nnunet_ssl.training.task_of_trainer import kind_of, task_of
from nnunet_ssl.training.unlabeled_pool import unlabeled_pool


class SemiSupervisedTrainer(ConfiguredTrainer):
    """nnU-Net's trainer with an unlabeled stream and a `Method`; a subclass only states `method`.

    `self.network` is the student with nnU-Net's architecture, wrapped and compiled by nnU-Net. In validation and in
    checkpoints the network that the method deploys stands in its place.

    Attributes:
        mix_labeled: above 0, each labeled batch also holds its patches once more, with this probability with a box of
            another one: nnU-Net's loss, which is a mean, has clean and mixed ones at half the weight each.
        mix_labeled_until: the fraction of training at which this ends.
        lean: a step takes about the memory of nnU-Net's own and a third more time, see `Net`.
    """

    method: type[Method]
    mix_labeled: float = 0.0
    mix_labeled_until: float = 1.0
    lean: bool = False

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008
    ):
        super().__init__(plans, configuration, fold, dataset_json, device)
        default = self.configuration_manager.batch_size if self.settings.chosen.reads_unlabeled() else 0
        self.unlabeled_batch_size = self.settings.trainer.get("unlabeled_batch_size", default)
        self.hyperparameters = self.settings.chosen.hyperparameters() | self.defaults | self.settings.method
        self.logger.local_logger = ProgressLogger()
        self._iteration = 0  # within the epoch
        self._loaders_phase = 0  # the one that the loaders were made for
        self._means: dict[str, float] = {}  # of the terms of the epoch at hand
        self._warned: set[str] = set()
        self._unlabeled: Unlabeled | None = None  # of the last step, where a picture is due
        self._strong_views: StrongViews | None = None  # None where the loaders make them

    # ------------------------------------------------------------------ set-up

    def initialize(self) -> None:
        """nnU-Net's own set-up, then the method's.

        Raises:
            NotImplementedError: the method or the unlabeled stream cannot do what the plans ask for, with the reason.
        """
        self.build_network_architecture = self._build_student
        super().initialize()
        if not issubclass(self.dataset_class, nnUNetDatasetBlosc2):
            raise NotImplementedError(
                f"{self.preprocessed_dataset_folder} holds nnU-Net's older npz files; run nnUNetv2_preprocess again."
            )
        self.net = Net(self.network, kind_of(self.label_manager), patches_at_once(self))
        self.method = self.settings.chosen(**self.hyperparameters)
        if "target" in self.method.views and not self.method.labeled_first:
            raise NotImplementedError(
                f'{type(self.method).__name__} asks for the view "target" without labeled_first: before the first of '
                "its phases there is no network that could label the unlabeled cases."
            )
        self._mix = BoxMixing(self.mix_labeled)
        self._mix.require_pairs(self.batch_size)
        self.method.task = self._pseudo_task = task_of(self)
        self.method.supervised = Supervised(self.loss, self.enable_deep_supervision)
        if self.method.known_voxels is not None:
            self._pseudo_task = replace(self.method.task, ignore_label=unknown_label(self.label_manager))
            self.method.supervised = Supervised(self.loss, self.enable_deep_supervision, partial_loss(self))
        self.method.setup(self.net, self._architecture)
        self.method.to(self.device)
        self.phases = Phases.at(self.method.phases, self.num_epochs)
        self.lr_scheduler = Restarted(self.lr_scheduler, self.phases)
        broadcast_state(self.method)
        if self.is_ddp and self.seed is not None:
            seed_everything(self.seed + 1000 * self.local_rank)  # the same start, different noise
        self.strong_draws = generator_of(self.seed, self.local_rank)
        own = [module for module in self.method.modules() if isinstance(module, OwnOptimizer) and module.joint]
        elsewhere = {parameter for module in own for parameter in module.trained}
        if parameters := [parameter for parameter in self._method_parameters() if parameter not in elsewhere]:
            self.optimizer.add_param_group({"params": parameters})
        self.optimizers = [self.optimizer, *(module.optimizer for module in own)]
        self.logger.update_config({"nnunet_ssl": {**self.settings.trainer, "method": self.hyperparameters}})

    @classmethod
    def build_network_architecture(  # nnU-Net looks at the names of the arguments
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """What predicts: nnU-Net asks for it to load a checkpoint."""
        sizes = (num_input_channels, num_output_channels, enable_deep_supervision)
        return cls.method.model(planned_architecture(configuration_manager, *sizes))

    def _build_student(
        self, plans_manager: PlansManager, configuration_manager: ConfigurationManager, *sizes: int
    ) -> nn.Module:
        """What nnU-Net builds to train; a subclass whose class method builds a network of its own trains that one."""
        build, own = type(self).build_network_architecture, None
        if getattr(build, "__func__", build) is not SemiSupervisedTrainer.build_network_architecture.__func__:
            own = partial(build, plans_manager, configuration_manager, *sizes)
        self._architecture = planned_architecture(configuration_manager, *sizes, own=own)
        return self.settings.chosen.student(self._architecture)

    def _method_parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.method.parameters() if parameter.requires_grad]

    # ------------------------------------------------------------------ data

    def get_tr_and_val_datasets(self) -> tuple:
        """nnU-Net's.

        Raises:
            InputError: in the second stage of a cascade, the first stage has not predicted all labeled cases.
        """
        datasets = super().get_tr_and_val_datasets()
        if self.is_cascaded:
            cases = [case for dataset in datasets for case in dataset.identifiers]
            first, name = self.configuration_manager.previous_stage_name, type(self).__name__
            remedy = f"train all folds of {first} with {name} to their end: each predicts what it validates on."
            check_predicted(self.folder_with_segs_from_previous_stage, cases, "labeled", remedy)
        return datasets

    def join_streams(self, labeled: nnUNetDataLoader) -> Iterator[dict]:
        """Each training batch also carries an unlabeled one, made by the same workers, unless none is read (yet)."""
        transforms = labeled.transforms  # nnU-Net's, before maps are joined
        if self.method.case_maps is not None:
            case_maps.join_maps(labeled, Path(self.output_folder) / case_maps.FOLDER)
        if not self.method.reads_unlabeled():
            return labeled
        views = Views(transforms, self.method.views, self._pseudo_task.ignore_label)
        labels = labels_folder(self, self._loaders_phase) if "target" in views.views and self._loaders_phase else None
        pool = unlabeled_pool(self, labels)
        if self.method.labeled_first and self._loaders_phase == 0:
            return labeled
        self._strong_views = made_on_device(self, views)
        unlabeled = UnlabeledLoader(pool, self.unlabeled_share(), labeled, views, self.label_manager)
        return TwoStreamLoader(labeled, unlabeled)

    def strong_views_on_device(self) -> bool:
        """Whether the device changes the intensities of strong views; a CPU has nothing to gain by it."""
        return self.device.type == "cuda"

    def unlabeled_share(self) -> int:
        """This rank's part of the unlabeled batch.

        Raises:
            InputError: the ranks cannot share it equally, so that the mean over ranks would not be that over patches.
        """
        share, rest = divmod(self.unlabeled_batch_size, world := world_size())
        if rest:
            raise InputError(
                f"unlabeled_batch_size = {self.unlabeled_batch_size} cannot be shared equally by {world} GPUs: take "
                f"{(share + 1) * world} (variable nnUNet_ssl_config)."
            )
        return share

    # ------------------------------------------------------------------ training

    def on_train_start(self) -> None:
        if not self.was_initialized:
            self.initialize()
        self._loaders_phase = 0 if self._phase_begins() else self._phase  # a phase that begins makes its own
        if self.method.case_maps is not None:
            case_maps.make_maps(self)
        super().on_train_start()
        if not self.resumed:
            for module in self.method.modules():
                if isinstance(module, Teacher):  # the student may have got pretrained weights since set-up
                    module.copy_weights(self.net)

    def on_train_epoch_start(self) -> None:
        if self.method.labeled_first and self._phase_begins():
            self.check_same_data()
            if "target" in self.method.views:
                self.label_pool()
            self._renew_loaders()
        super().on_train_epoch_start()
        self.method.train()
        self._iteration = len(self.done_before["train"])

    def label_pool(self) -> None:
        """Pseudo-labels of all unlabeled cases, for the phase that begins."""
        label_unlabeled_cases(self, unlabeled_pool(self), self._phase)

    @property
    def first_epoch_that_counts(self) -> int:
        return self.phases.starts[-1] if self.phases.starts else 0

    @property
    def _phase(self) -> int:
        return self.phases.of(self.current_epoch)

    def _phase_begins(self) -> bool:
        """Whether the epoch at hand, of which no step is taken, is the first of a phase."""
        return self.phases.begin_with(self.current_epoch) and not self.done_before["train"]

    def _renew_loaders(self) -> None:
        """They give what the phase at hand reads."""
        self._loaders_phase = self._phase
        self._train_steps.end_workers()
        self._validation_steps.end_workers()
        self._train_steps.loader, self._validation_steps.loader = self.get_dataloaders()

    def _begin_phase(self) -> None:
        for optimizer in self.optimizers:
            optimizer.state.clear()
        self.method.begin_phase(self.net, self._phase)
        self.print_to_log_file(f"phase {self._phase} begins")
        self._warn(signs_of_phase(*self._history(), self._phase))

    def train_step(self, batch: dict) -> dict[str, Tensor]:
        """One step; returns the total loss, its terms and the method's report, all still on the device."""
        image, maps = self._to_device(batch["data"]).tensor_split([self.num_input_channels], 1)
        truth = self.method.task.target(self._to_device(batch["target"]), self.missing_in(batch))
        labeled = Labeled(image.contiguous(), truth, tuple(batch["keys"]), maps)
        views = {view: self._to_device(batch[STREAM + view]) for view in self.method.views if STREAM + view in batch}
        if views and self._strong_views is not None:
            views["strong"] = self._strong_views(views.get("strong", views.get("weak")))
        if "target" in views:
            views["target"] = self._pseudo_task.target(views["target"])
        unlabeled = Unlabeled(**views, cases=tuple(batch.get(STREAM + "cases", ())))
        step = self.current_epoch * self.num_iterations_per_epoch + self._iteration
        fraction = step / (self.num_epochs * self.num_iterations_per_epoch)
        now = Now(step, self.current_epoch, fraction, self._phase)
        if self.mix_labeled and fraction < self.mix_labeled_until:
            labeled = joined(labeled, self._mix(labeled))
        if self._iteration == 0 and self.phases.begin_with(self.current_epoch):
            self._begin_phase()  # not before: a run that is stopped ahead of this step begins it when it goes on

        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.method.report.clear()
        with autocast("cuda") if self.device.type == "cuda" else dummy_context():
            terms = self.method.losses(self.net, labeled, unlabeled, now)
            loss = sum(terms.values())
        self._update(loss)
        self.method.after_step(self.net, now)
        self._iteration += 1
        if self.local_rank == 0 and self._iteration == self.num_iterations_per_epoch and label_picture.due(now.epoch):
            self._unlabeled = unlabeled
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
        means = epoch_means(train_outputs, self.device)
        super().on_train_epoch_end([{"loss": means.pop("loss")}])
        self._means = means
        self._log(means)

    def _log(self, means: dict[str, float]) -> None:
        self.logger.local_logger.log_terms(self._means | means, self.current_epoch)
        for logger in self.logger.loggers:  # where a slash makes a group, as nnU-Net does for classes
            for name, value in means.items():
                logger.log(name.removesuffix("]").replace("[", "/"), value, self.current_epoch)
        self.print_to_log_file("terms", ", ".join(f"{name} {value:.4g}" for name, value in means.items()))

    def _history(self) -> tuple[dict[str, list[float]], list[list[float]]]:
        """The terms and nnU-Net's pseudo Dice of all epochs so far."""
        return self.logger.local_logger.terms(), self.logger.get_value("dice_per_class_or_region", step=None)

    def _warn(self, signs: dict[str, str]) -> None:
        for name, message in signs.items():
            if name not in self._warned:
                self.print_to_log_file(f"WARNING: {message}")
        self._warned.update(signs)

    def on_epoch_end(self) -> None:
        """nnU-Net's; and every few epochs the picture of the labels on unlabeled patches."""
        super().on_epoch_end()
        unlabeled, self._unlabeled = self._unlabeled, None
        if unlabeled is not None:
            label_picture.picture(self, unlabeled, self.current_epoch - 1)

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

    def on_validation_epoch_end(self, val_outputs: list[dict]) -> None:
        """nnU-Net's; besides, which share of the patches each class has been given."""
        super().on_validation_epoch_end(val_outputs)
        voxels = self.batch_size * math.prod(self.configuration_manager.patch_size)
        names = self.method.task.channels[self.net.kind.background :]
        shares = [
            dict(zip([f"{SHARE}[{name}]" for name in names], each.astype(float).tolist(), strict=True))
            for step in val_outputs
            for each in [(step["tp_hard"] + step["fp_hard"]) / voxels]
        ]
        self._log(epoch_means(shares, self.device))
        self._warn(signs(*self._history(), self.phases))

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        with self._deployed(False):
            super().perform_actual_validation(save_probabilities)

    def deployed_network(self) -> nn.Module:
        return self.method.deployed(self.net)

    def random_state(self) -> dict[str, Any]:
        return super().random_state() | {"strong_views": self.strong_draws.get_state()}

    def restore_random_state(self, state: dict[str, Any]) -> None:
        super().restore_random_state(state)
        if "strong_views" in state:  # else an older version wrote it
            self.strong_draws.set_state(state["strong_views"].cpu())

    def own_state(self) -> dict[str, Any]:
        return super().own_state() | {"method": self.method.state_dict(), "hyperparameters": self.hyperparameters}

    def load_own_state(self, state: dict[str, Any]) -> None:
        self.method.load_state_dict(state["method"])
        if state["hyperparameters"] != self.hyperparameters:
            self.print_to_log_file(f"continuing with {self.hyperparameters}; before: {state['hyperparameters']}")
