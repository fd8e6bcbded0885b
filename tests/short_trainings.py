"""Trainings of a few steps, what they save, and how they are interrupted."""

import math
from pathlib import Path

import pytest
import torch
from nnunetv2.run.run_training import get_trainer_from_args

CPU = torch.device("cpu")
SHORT = "num_epochs: 3, num_iterations_per_epoch: 2, num_val_iterations_per_epoch: 1, save_every: 1, seed: 0"


def trainer_of(dataset, name="nnUNetTrainerMeanTeacher", configuration="3d_fullres", fold=0, resume=False, device=CPU):
    return get_trainer_from_args(dataset.name, configuration, fold, name, dataset.plans, resume, device)


def train(dataset, monkeypatch, settings=SHORT, **arguments):
    monkeypatch.setenv("nnUNet_ssl_config", f"{{{settings}}}")
    trainer = trainer_of(dataset, **arguments)
    trainer.run_training()
    return trainer


def checkpoint(trainer, name="checkpoint_final.pth"):
    return torch.load(f"{trainer.output_folder}/{name}", map_location="cpu", weights_only=False)


def equal(first, second, nearly=False) -> bool:
    """Whether two nested states are, or nearly: kernels of a GPU add up in an order of their own each time."""
    if isinstance(first, torch.Tensor):
        if nearly and first.is_floating_point():
            return torch.allclose(first.float().cpu(), second.float().cpu(), rtol=1e-2, atol=1e-3)
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[key], second[key], nearly) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(equal(*pair, nearly) for pair in zip(first, second, strict=True))
    if nearly and isinstance(first, float):
        return math.isclose(first, second, rel_tol=1e-2, abs_tol=1e-3)
    return first == second


class Interrupted(Exception):
    pass


def interrupt_after(epoch):
    def on_epoch_end(self):
        super(type(self), self).on_epoch_end()
        if self.current_epoch == epoch:
            raise Interrupted

    return on_epoch_end


def interrupt(trainer, epoch, monkeypatch):
    """Trains until so many epochs are over."""
    with monkeypatch.context() as patched:
        patched.setattr(type(trainer), "on_epoch_end", interrupt_after(epoch), raising=False)
        with pytest.raises(Interrupted):
            trainer.run_training()


def whole_and_resumed(make, monkeypatch):
    """The last checkpoint of a training, and a trainer that goes on after two epochs of another one like it.

    Args:
        make: factory of the trainer, with `resume`.
    """
    trainer = make()
    trainer.run_training()
    whole = checkpoint(trainer)
    (Path(trainer.output_folder) / "checkpoint_final.pth").unlink()
    interrupt(make(), 2, monkeypatch)
    resumed = make(resume=True)
    resumed.load_checkpoint(f"{resumed.output_folder}/checkpoint_latest.pth")
    assert resumed.current_epoch == 2
    return whole, resumed


def batches_of(trainer, monkeypatch):
    """A list that is filled with the labeled and unlabeled patches of each step to come."""
    seen, losses = [], type(trainer).method.losses
    monkeypatch.setattr(
        type(trainer).method,
        "losses",
        lambda self, net, labeled, unlabeled, now: (
            seen.append((labeled, unlabeled)) or losses(self, net, labeled, unlabeled, now)
        ),
    )
    return seen
