"""nnU-Net's trainer whose runs can be killed, stopped and continued without a trace in the result."""

from __future__ import annotations

import signal
from os.path import join
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor, nn
from torch import distributed as dist

import nnunet_ssl
from nnunet_ssl.checkpoints import (
    CHECKPOINT_KEY,
    has_diverged,
    read_checkpoint,
    refuse_diverged,
    remove_partial,
    write_checkpoint,
)
from nnunet_ssl.distributed import of_all_ranks
from nnunet_ssl.errors import InputError
from nnunet_ssl.networks.net import unwrap
from nnunet_ssl.training.patience import OutOfPatience
from nnunet_ssl.training.random_state import get_random_state, set_random_state
from nnunet_ssl.training.stopping import Steps, Stop

LATEST, BEST = "checkpoint_latest.pth", "checkpoint_best.pth"


class ResumableTrainer(nnUNetTrainer):
    """Atomic checkpoints with the random state, and a stop between any two steps that `--c` goes on from.

    A subclass says with `deployed_network` what `network_weights` are, if not of the network in training, and with
    `own_state` and `load_own_state` what else belongs to its state.
    """

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 (nnU-Net's signature, recorded by inspection)
    ):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.resumed = False
        self.done_before: dict[str, list[dict]] = {"train": [], "validation": []}  # of an epoch that was stopped within
        self._random_state: dict | None = None
        self._stop = Stop()

    # ------------------------------------------------------------------ training

    def run_training(self) -> None:
        """nnU-Net's loop.

        Raises:
            SystemExit: Ctrl-C (status 130) or SIGTERM (143) came; a checkpoint was written.
        """
        with self._stop:
            try:
                super().run_training()
            except OutOfPatience:
                self.on_train_end()
        if self._stop.number:  # it came after the last step
            self._say_stopped(self._stop.number, "after the training; --c goes on with the validation")

    def on_train_start(self) -> None:
        super().on_train_start()
        if self.local_rank == 0:
            remove_partial(self.output_folder)
        self._train_steps = Steps(self.dataloader_train, self.train_step, self.stop_if_asked, self.done_before["train"])
        self._validation_steps = Steps(
            self.dataloader_val, self.validation_step, self.stop_if_asked, self.done_before["validation"]
        )
        self.dataloader_train, self.train_step = self._train_steps, self._train_steps.step
        self.dataloader_val, self.validation_step = self._validation_steps, self._validation_steps.step
        if self.resumed:
            self.restore_random_state(self._random_state)
            self._make_up_for_best()

    def on_epoch_start(self) -> None:
        super().on_epoch_start()
        self._train_steps.outputs.clear()
        self._validation_steps.outputs.clear()

    def on_train_end(self) -> None:
        # nnU-Net looks at their class
        self.dataloader_train, self.dataloader_val = self._train_steps.loader, self._validation_steps.loader
        super().on_train_end()

    def stop_if_asked(self) -> None:
        if not (number := self._stop.agreed(self.device)):
            return
        done = {
            kind: [_on_cpu(outputs) for outputs in steps.outputs]
            for kind, steps in (("train", self._train_steps), ("validation", self._validation_steps))
        }
        self._write(join(self.output_folder, LATEST), self.current_epoch, done)
        if self.is_ddp:
            dist.barrier()  # the rank that ends first has the others ended
        self._train_steps.end_workers()
        self._validation_steps.end_workers()
        counts = f"{len(done['train'])} of {self.num_iterations_per_epoch} steps"
        self._say_stopped(number, f"in epoch {self.current_epoch} after {counts}; --c goes on from there")

    def _say_stopped(self, number: int, where: str) -> None:
        self.print_to_log_file(f"Stopped by {signal.Signals(number).name} {where}.")
        raise SystemExit(128 + number)

    def _make_up_for_best(self) -> None:
        """nnU-Net writes the latest checkpoint, then looks whether it is the best: a run may be killed in between."""
        history = self.logger.get_value("ema_fg_dice", step=None)
        if history and (self._best_ema is None or history[-1] > self._best_ema):
            self._best_ema = history[-1]
            self._write(join(self.output_folder, BEST), self.current_epoch)

    # ------------------------------------------------------------------ checkpoints

    def deployed_network(self) -> nn.Module:
        """The network that predicts."""
        return unwrap(self.network)

    def random_state(self) -> dict[str, Any]:
        """Of all generators that this rank draws from; a subclass adds its own."""
        return get_random_state()

    def restore_random_state(self, state: dict[str, Any]) -> None:
        """Goes on from what `random_state` returned."""
        set_random_state(state)

    def own_state(self) -> dict[str, Any]:
        """What a subclass adds to the checkpoint."""
        return {"version": nnunet_ssl.__version__}

    def load_own_state(self, state: dict[str, Any]) -> None:
        """Restores what `own_state` of a subclass returned."""

    def check_state(self, checkpoint: dict[str, Any], filename: str) -> None:
        """Raises InputError for a checkpoint that a subclass must not go on from; nothing is restored yet."""

    def save_checkpoint(self, filename: str) -> None:
        """nnU-Net's checkpoint with the deployed network as `network_weights` and one entry of ours.

        Raises:
            InputError: it cannot be written, or the training has diverged; the one that was there is as before.
        """
        self._write(filename, self.current_epoch + 1)

    def _write(self, filename: str, epoch: int, done: dict[str, list[dict]] | None = None) -> None:
        """Writes a checkpoint that goes on with an epoch, of which some steps may be done already."""
        ranks = of_all_ranks((self.random_state(), done))
        if self.local_rank != 0:
            return
        if self.disable_checkpointing:
            self.print_to_log_file("No checkpoint written, checkpointing is disabled")
            return
        training, deployed = unwrap(self.network), self.deployed_network()
        if any(has_diverged(network.state_dict()) for network in {training, deployed}):
            raise InputError(
                f"epoch {self.current_epoch}: the weights are no numbers any more, the training has diverged. "
                f"{filename} was not written; lower initial_lr or the method's weight, and train anew."
            )
        checkpoint = {
            "network_weights": deployed.state_dict(),
            "optimizer_state": self.optimizer.state_dict(),
            "grad_scaler_state": self.grad_scaler.state_dict() if self.grad_scaler is not None else None,
            "logging": {key: values[:epoch] for key, values in self.logger.get_checkpoint().items()},
            "_best_ema": self._best_ema,
            "current_epoch": epoch,
            "init_args": self.my_init_kwargs,
            "trainer_name": self.__class__.__name__,
            "inference_allowed_mirroring_axes": self.inference_allowed_mirroring_axes,
            CHECKPOINT_KEY: {
                "student": None if deployed is training else training.state_dict(),
                "random_states": [random_state for random_state, _ in ranks],
                "taken": [done for _, done in ranks],
                **self.own_state(),
            },
        }
        write_checkpoint(checkpoint, filename)

    def load_checkpoint(self, filename_or_checkpoint: str) -> None:
        """Resumes all of the state.

        Raises:
            InputError: the checkpoint is damaged, was not written by this trainer, does not belong to the fold, or its
                training diverged.
        """
        checkpoint = read_checkpoint(filename_or_checkpoint)
        ours = checkpoint.get(CHECKPOINT_KEY)
        if ours is None or checkpoint["trainer_name"] != type(self).__name__:
            raise InputError(
                f"{filename_or_checkpoint} was written by {checkpoint['trainer_name']}, not by this version's "
                f"{type(self).__name__}, and cannot be continued. To start from its weights, use -pretrained_weights."
            )
        refuse_diverged(filename_or_checkpoint, checkpoint["network_weights"], ours["student"] or {})
        self.check_state(checkpoint, filename_or_checkpoint)
        if not self.was_initialized:
            self.initialize()
        unwrap(self.network).load_state_dict(ours["student"] or checkpoint["network_weights"])
        self.optimizer.load_state_dict(checkpoint["optimizer_state"])
        if self.grad_scaler is not None and checkpoint["grad_scaler_state"] is not None:
            self.grad_scaler.load_state_dict(checkpoint["grad_scaler_state"])
        self.my_init_kwargs = checkpoint["init_args"]
        self.current_epoch = checkpoint["current_epoch"]
        self.logger.load_checkpoint(checkpoint["logging"])
        self._best_ema = checkpoint["_best_ema"]
        self.inference_allowed_mirroring_axes = checkpoint["inference_allowed_mirroring_axes"]
        rank = self.local_rank % len(ours["random_states"])
        self._random_state = ours["random_states"][rank]
        if done := ours["taken"][rank]:
            self.done_before["train"] = done["train"][: self.num_iterations_per_epoch]
            if len(done["train"]) == self.num_iterations_per_epoch:  # else the overrides changed: validate anew
                self.done_before["validation"] = done["validation"][: self.num_val_iterations_per_epoch]
        self.load_own_state(ours)
        self.resumed = True


def _on_cpu(outputs: dict[str, Any]) -> dict[str, Any]:
    return {name: value.cpu() if isinstance(value, Tensor) else value for name, value in outputs.items()}
