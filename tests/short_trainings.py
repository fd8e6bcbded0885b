"""Trainings of a few steps, what they save, and how they are interrupted."""

import torch
from nnunetv2.run.run_training import get_trainer_from_args

CPU = torch.device("cpu")
SHORT = "num_epochs: 3, num_iterations_per_epoch: 2, num_val_iterations_per_epoch: 1, save_every: 1, seed: 0"


def trainer_of(dataset, name="nnUNetTrainerMeanTeacher", configuration="3d_fullres", fold=0, resume=False):
    return get_trainer_from_args(dataset.name, configuration, fold, name, dataset.plans, resume, CPU)


def train(dataset, monkeypatch, settings=SHORT, **arguments):
    monkeypatch.setenv("nnUNet_ssl_config", f"{{{settings}}}")
    trainer = trainer_of(dataset, **arguments)
    trainer.run_training()
    return trainer


def checkpoint(trainer, name="checkpoint_final.pth"):
    return torch.load(f"{trainer.output_folder}/{name}", map_location="cpu", weights_only=False)


def equal(first, second) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(equal, first, second))
    return first == second


class Interrupted(Exception):
    pass


def interrupt_after(epoch):
    def on_epoch_end(self):
        super(type(self), self).on_epoch_end()
        if self.current_epoch == epoch:
            raise Interrupted

    return on_epoch_end
