"""nnU-Net's trainer and its loop, as `nnunet_ssl/training` extends them."""

import inspect
import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as module
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from workbench import output, target

from nnunet_ssl.data.origin import NNUNET_LENGTH
from nnunet_ssl.losses.supervised import Supervised
from nnunet_ssl.methods.urpc import UNUSED
from nnunet_ssl.networks.own_optimizer import MAX_GRADIENT_NORM
from nnunet_ssl.results.export import FILES
from nnunet_ssl.schedules import polynomial_decay
from nnunet_ssl.training.settings import TRAINER_SETTINGS

OURS = {"seed", "accept_other_data", "augmentation", "patience"}  # settings that nnU-Net's trainer does not have
ARGUMENTS = ["plans", "configuration", "fold", "dataset_json", "device"]
HOOKS = ["on_train_start", "on_epoch_start", "on_train_epoch_start", "on_train_epoch_end"]
HOOKS += ["on_validation_epoch_start", "on_validation_epoch_end", "on_epoch_end", "on_train_end"]


# ---------------------------------------------------------------------- the loop


class Loop(nnUNetTrainer):
    """Runs nnU-Net's loop with hooks that only write down that they were called."""

    def __init__(self):
        self.current_epoch, self.num_epochs = 3, 4
        self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 2, 1
        self.calls, self.outputs, self.gradient = [], {}, {}
        for name in HOOKS:
            setattr(self, name, lambda *outputs, name=name: self.note(name, *outputs))

    def note(self, name, *outputs):
        self.calls.append(name)
        self.gradient[name] = torch.is_grad_enabled()
        self.outputs |= {name: outputs[0]} if outputs else {}
        if name == "on_train_start":  # as we do: loaders and steps of the trainer itself are replaced here
            self.dataloader_train, self.train_step = iter("ab"), lambda batch: self.calls.append(batch) or {"of": batch}
            self.dataloader_val, self.validation_step = iter("v"), lambda batch: self.calls.append(batch) or batch


@pytest.fixture(scope="module")
def loop():
    made = Loop()
    made.run_training()
    return made


def test_order_of_the_loop(loop):
    """The hooks are called in this order, from `current_epoch` on; `trainer.py` and `resumable.py` override seven."""
    train, validation = HOOKS[:4], HOOKS[4:]
    assert loop.calls == [*train[:3], "a", "b", train[3], validation[0], "v", *validation[1:]]


def test_loop_collects_what_steps_return(loop):
    """A list of what the steps have returned reaches the end of the epoch: `Steps` puts those of a stopped run in."""
    assert loop.outputs == {"on_train_epoch_end": [{"of": "a"}, {"of": "b"}], "on_validation_epoch_end": ["v"]}


def test_validation_is_without_gradient(loop):
    """Our `validation_step` switches no gradient off itself: the deployed network would keep its graph."""
    assert loop.gradient["on_train_epoch_end"] and not loop.gradient["on_validation_epoch_start"]


# ---------------------------------------------------------------------- a trainer is made


def test_arguments_of_the_trainer(new_trainer):
    """`my_init_kwargs` are the arguments of `__init__` by inspection: three of our classes repeat its signature."""
    assert list(inspect.signature(nnUNetTrainer.__init__).parameters) == ["self", *ARGUMENTS]
    assert list(new_trainer().my_init_kwargs) == ARGUMENTS


def test_plans_in_a_checkpoint_are_those_of_the_file(new_trainer, plans):
    """nnU-Net takes `continue_training` out of the plans: the fingerprint of an origin would differ from the file's."""
    trainer = new_trainer()
    assert trainer.my_init_kwargs["plans"] == plans and trainer.plans_manager.plans == plans


@pytest.mark.parametrize("name", sorted(TRAINER_SETTINGS.keys() - OURS))
def test_settings_are_attributes_that_a_new_trainer_has(new_trainer, name):
    """`nnUNet_ssl_config` sets it once `__init__` is over: under another name nobody would read it."""
    trainer = new_trainer()
    assert isinstance(vars(trainer)[name], TRAINER_SETTINGS[name].type)


@pytest.mark.parametrize(("name", "length"), NNUNET_LENGTH.items())
def test_length_of_a_training(new_trainer, name, length):
    """`data/origin.py` has nnU-Net's length by heart for runs that have not begun; `run` would refuse all of them."""
    assert getattr(new_trainer(), name) == length


def test_folders_of_a_training(new_trainer, dataset):
    """Origin, checkpoints, locks, pseudo-labels, runner and export look for a training in these folders."""
    trainer = new_trainer()
    model = dataset.root / "results" / dataset.name / f"nnUNetTrainer__{dataset.plans}__3d_fullres"
    assert Path(trainer.output_folder_base) == model and Path(trainer.output_folder) == model / "fold_0"
    assert Path(trainer.preprocessed_dataset_folder_base) == dataset.base
    assert Path(trainer.preprocessed_dataset_folder) == dataset.base / f"{dataset.plans}_3d_fullres"
    assert Path(trainer.log_file).match("fold_0/training_log_*.txt")


def test_folder_of_the_first_stage(plans, new_trainer, dataset):
    """`data/previous_stage.py` and the trainer find the first stage's predictions of a cascade by this attribute."""
    plans["configurations"]["second"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_fullres"}
    plans["configurations"]["3d_fullres"]["next_stage"] = "second"
    second = new_trainer(configuration="second")
    model = dataset.root / "results" / dataset.name / f"nnUNetTrainer__{dataset.plans}__3d_fullres"
    assert second.is_cascaded and second.configuration_manager.previous_stage_name == "3d_fullres"
    assert Path(second.folder_with_segs_from_previous_stage) == model / "predicted_next_stage" / "second"
    assert new_trainer().configuration_manager.next_stage_names == ["second"]


def test_a_new_trainer_is_neither_initialized_nor_distributed(new_trainer):
    """Ours initialize it late, by `was_initialized`, and ask `is_ddp` and `local_rank` who writes files."""
    trainer = new_trainer()
    assert (trainer.was_initialized, trainer.is_ddp, trainer.local_rank) == (False, False, 0)
    assert (trainer.disable_checkpointing, trainer._best_ema, trainer.grad_scaler) == (False, None, None)
    trainer.initialize()
    assert trainer.was_initialized and issubclass(trainer.dataset_class, nnUNetDatasetBlosc2)


def test_datasets_of_training_and_validation(trainer):
    """Voxel counts, pseudo-labels and the check of a cascade's predictions take both from here."""
    train, validation = trainer.get_tr_and_val_datasets()
    assert [train.identifiers, validation.identifiers] == list(map(sorted, trainer.do_split()))


# ---------------------------------------------------------------------- initialize


def test_network_is_built_by_the_instance_with_positional_arguments(new_trainer):
    """The trainer hides `build_network_architecture` by `_build_student(plans, configuration, *sizes)`."""
    trainer, build, calls = new_trainer(), nnUNetTrainer.build_network_architecture, []

    def student(plans_manager, configuration_manager, *sizes, **others):
        calls.append((sizes, others))
        return build(plans_manager, configuration_manager, *sizes)

    trainer.build_network_architecture = student
    trainer.initialize()
    assert calls == [((1, 3, True), {})]
    assert list(inspect.signature(build).parameters) == [
        *("plans_manager", "configuration_manager", "num_input_channels", "num_output_channels"),
        "enable_deep_supervision",
    ]


def test_loss_over_scales(trainer):
    """`Task.scale_weights` are `weight_factors`, largest scale first, the last without weight; URPC counts by them."""
    assert isinstance(trainer.loss, DeepSupervisionWrapper)
    assert trainer.loss.weight_factors == pytest.approx((1, 0)) and isinstance(trainer.loss.weight_factors, tuple)


def test_loss_of_one_scale(trainer):
    """`Supervised` hands a network without scales to `loss.loss`, with the target at full resolution."""
    logits, labels = torch.randn(2, 3, 16, 16, 16), torch.randint(3, (2, 1, 16, 16, 16))
    both = target([labels, torch.zeros(2, 1, 8, 8, 8)], channels=3)
    alone = trainer.loss.loss(logits, labels)
    assert torch.equal(Supervised(trainer.loss, True)(output(logits), both), alone)
    scales = output([logits, logits[..., ::2, ::2, ::2]])
    assert torch.allclose(Supervised(trainer.loss, True)(scales, both), alone)


def test_loss_weighs_cross_entropy_and_dice_alike(trainer):
    """Weights of presets are doubled where published code halves the sum; `losses/weighted.py` copies the formula."""
    loss = trainer.loss.loss
    assert (loss.weight_ce, loss.weight_dice, loss.dc.do_bg, loss.dc.smooth) == (1, 1, False, 1e-5)
    assert loss.dc.batch_dice == trainer.configuration_manager.batch_dice


def test_loss_of_several_gpus_keeps_a_trace_of_the_last_scale(trainer):
    """URPC takes a scale for unused below `UNUSED`: with DDP nnU-Net weighs the last one by a little more than zero."""
    trainer.is_ddp = True
    assert 0 < trainer._build_loss().weight_factors[-1] < UNUSED


def test_without_deep_supervision_there_is_one_output(trainer):
    """Networks of other libraries have no strides in their plans: nnU-Net must not ask for them then."""
    del trainer.configuration_manager.network_arch_init_kwargs["strides"]
    trainer.enable_deep_supervision = False
    assert trainer._get_deep_supervision_scales() is None
    assert not isinstance(trainer._build_loss(), DeepSupervisionWrapper)


def test_axes_of_mirroring_come_last(trainer):
    """`task_of` takes the last of what this function returns for `Task.mirror_axes`."""
    *_, patch, axes = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    assert axes == (0, 1, 2) == trainer.inference_allowed_mirroring_axes
    assert len(patch) == 3


def test_learning_rate_reaches_groups_that_come_later(trainer):
    """A method's parameters join nnU-Net's optimizer after its schedule was made; `Restarted` gives it fractions."""
    trainer.optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))]})
    trainer.lr_scheduler.step(0.4 * trainer.num_epochs)
    rates = [group["lr"] for group in trainer.optimizer.param_groups]
    assert rates == pytest.approx([trainer.initial_lr * polynomial_decay(0.4)] * 2)
    assert {group["momentum"] for group in trainer.optimizer.param_groups} == {0.99}


def test_momentum_begins_anew_without_state(trainer):
    """A phase of a method starts nnU-Net's momentum anew by `optimizer.state.clear()`."""
    weight = next(trainer.network.parameters())
    weight.grad = torch.ones_like(weight)
    trainer.optimizer.step()
    trainer.optimizer.state.clear()
    weight.grad = torch.full_like(weight, 2.0)
    before = weight.detach().clone()
    trainer.optimizer.step()
    momentum = trainer.optimizer.state[weight]["momentum_buffer"]
    assert torch.allclose(momentum, 2.0 + trainer.weight_decay * before)


# ---------------------------------------------------------------------- training starts


def test_loaders_are_reached_through_the_augmenters(trainer, dataset):
    """`configured.py` has nnU-Net build loaders without workers and takes them out of `SingleThreadedAugmenter`."""
    train, validation = (augmenter.data_loader for augmenter in trainer.get_dataloaders())
    assert type(train) is type(validation) is module.nnUNetDataLoader
    folds = json.loads((dataset.base / "splits_final.json").read_text(encoding="utf-8"))
    assert list(train.indices) == folds[0]["train"] and list(validation.indices) == folds[0]["val"]


@pytest.mark.parametrize(
    ("allowed", "train", "validation"),
    [(1, (1, 6), (1, 3)), (8, (8, 6), (4, 3)), (40, (40, 20), (20, 10))],
)
def test_size_of_worker_pools(trainer, monkeypatch, allowed, train, validation):
    """`configured.py` repeats nnU-Net's numbers of workers and of batches that wait: else a comparison is not fair."""
    made = []

    def pool(**arguments):
        made.append(arguments)
        return iter([None])

    monkeypatch.setattr(module, "NonDetMultiThreadedAugmenter", pool)
    monkeypatch.setattr(module, "get_allowed_n_proc_DA", lambda: allowed)
    trainer.get_dataloaders()
    assert [(arguments["num_processes"], arguments["num_cached"]) for arguments in made] == [train, validation]
    assert [(a["seeds"], a["pin_memory"], a["wait_time"], a["transform"]) for a in made] == [
        (None, False, 0.002, None)
    ] * 2


def test_number_of_workers_is_asked_for_each_time(monkeypatch):
    """`without_workers` sets the variable for a moment: nnU-Net must not have read it before."""
    for number in (0, 1):
        monkeypatch.setenv("nnUNet_n_proc_DA", str(number))
        assert module.get_allowed_n_proc_DA() == number


def test_training_start_makes_loaders_and_writes_what_export_copies(new_trainer, dataset, monkeypatch):
    """Ours wrap `dataloader_train` and `dataloader_val` after this hook; a stock model folder has these three files."""
    trainer = new_trainer()
    monkeypatch.setattr(trainer, "get_dataloaders", lambda: ("train", "validation"))
    states = []
    monkeypatch.setattr(trainer, "set_deep_supervision_enabled", states.append)
    trainer.on_train_start()
    assert trainer.was_initialized and (trainer.dataloader_train, trainer.dataloader_val) == ("train", "validation")
    assert states == [True]
    assert {*FILES} <= {*os.listdir(trainer.output_folder_base)}


def test_debug_file_tells_attributes_as_text(trainer):
    """The runner's table reads `plans_saw_hidden_labels` of a finished fold in `debug.json`."""
    trainer.plans_saw_hidden_labels = 3
    trainer._save_debug_information()
    debug = json.loads((Path(trainer.output_folder) / "debug.json").read_text(encoding="utf-8"))
    assert debug["plans_saw_hidden_labels"] == "3"


# ---------------------------------------------------------------------- epochs and steps


def test_epoch_start_trains_and_steps_the_schedule(trainer):
    """The trainer puts `Restarted` in the schedule's place: nothing but `step(epoch)` may be asked of it."""
    epochs = []
    trainer.lr_scheduler, trainer.current_epoch = SimpleNamespace(step=epochs.append), 7
    trainer.network.eval()
    trainer.on_train_epoch_start()
    assert epochs == [7] and trainer.network.training


def test_validation_start_evaluates(trainer):
    """`on_validation_epoch_start` is what switches the student; ours adds the method."""
    trainer.network.train()
    trainer.on_validation_epoch_start()
    assert not trainer.network.training


def test_step_clips_the_gradient_of_the_network(trainer, monkeypatch):
    """`_update` and `OwnOptimizer` clip to nnU-Net's norm, for each network on its own."""
    norms = []
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda parameters, norm: norms.append(norm))
    batch = next(trainer.get_dataloaders()[0])
    trainer.train_step(batch)
    assert norms == [MAX_GRADIENT_NORM]


def test_validation_step_runs_what_stands_for_the_network(trainer):
    """Validation has the deployed network in `self.network`; its outputs, in a checkpoint, must load as plain data."""
    batch, network, seen = next(trainer.get_dataloaders()[1]), trainer.network, []

    def deployed(image):
        seen.append(image.shape)
        return network(image)

    trainer.network = deployed
    outputs = trainer.validation_step(batch)
    assert seen == [(2, 1, 16, 16, 16)]
    assert outputs.keys() == {"loss", "tp_hard", "fp_hard", "fn_hard"}
    assert all(
        isinstance(value, np.ndarray | np.generic) and value.dtype.char in "efdilq?" for value in outputs.values()
    )
    assert outputs["tp_hard"].shape == (2,)  # foreground


def test_epoch_end_takes_the_mean_of_losses_that_are_numbers(trainer):
    """The trainer hands on one step with the mean loss, a float, in place of all the steps."""
    trainer.on_train_epoch_end([{"loss": 0.25}])
    assert trainer.logger.get_value("train_losses", step=-1) == 0.25


def finish_epoch(trainer, saved, dice: float) -> None:
    """The end of an epoch with a pseudo Dice; what is saved is noted with the epoch and the best value by then."""
    trainer.save_checkpoint = lambda file: saved.append((Path(file).name, trainer.current_epoch, trainer._best_ema))
    trainer.on_epoch_start()
    trainer.on_train_epoch_end([{"loss": 1.0}])
    counts = {"tp_hard": np.array([dice]), "fp_hard": np.array([2 - 2 * dice]), "fn_hard": np.zeros(1)}
    trainer.on_validation_epoch_end([{"loss": np.array(1.0), **counts}])
    trainer.on_epoch_end()


def test_latest_checkpoint_is_written_before_the_best_one(trainer, monkeypatch):
    """A run killed in between makes up for the best one on `--c`, with the logged average that nnU-Net compares."""
    monkeypatch.setattr(trainer.logger, "plot_progress_png", lambda folder: None)
    saved = []
    trainer.save_every = 1
    finish_epoch(trainer, saved, 0.5)
    finish_epoch(trainer, saved, 0.25)
    assert saved == [
        ("checkpoint_latest.pth", 0, None),
        ("checkpoint_best.pth", 0, 0.5),
        ("checkpoint_latest.pth", 1, 0.5),
    ]
    assert trainer.logger.get_value("ema_fg_dice", step=None) == pytest.approx([0.5, 0.475])
    assert trainer.current_epoch == 2


def test_training_ends_with_the_final_checkpoint(trainer, monkeypatch):
    """It is of the last epoch, then the latest one goes; workers end by their class, from which `Workers` derives."""
    ended, saved = [], []

    class Pool(NonDetMultiThreadedAugmenter):
        def _finish(self, *arguments, **other):
            ended.append(self)

    trainer.dataloader_train, trainer.dataloader_val = Pool(iter(()), None, 1), iter(())
    latest = Path(trainer.output_folder) / "checkpoint_latest.pth"
    latest.touch()
    trainer.current_epoch = 5
    trainer.save_checkpoint = lambda file: saved.append((Path(file).name, trainer.current_epoch, latest.exists()))
    trainer.on_train_end()
    assert saved == [("checkpoint_final.pth", 4, True)]
    assert not latest.exists() and trainer.current_epoch == 5
    assert ended == [trainer.dataloader_train]
