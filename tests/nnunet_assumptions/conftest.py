"""A tiny phantom with nnU-Net's own plans, and stock trainers on it."""

import json

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from workbench import phantom


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Planned by nnU-Net, with four labeled cases of two classes and five unlabeled ones, in 3D."""
    return phantom(tmp_path_factory.mktemp("assumptions"), "3d_fullres", [16, 16, 16], shape=(18, 24, 24))


@pytest.fixture(scope="module")
def dataset(tiny):
    """The phantom, with nnU-Net's variables set for it and no loader processes."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("nnUNet_n_proc_DA", "0")
        yield tiny.use(patched)


@pytest.fixture
def plans(dataset) -> dict:
    """As nnU-Net's planner has written them, but for the sizes of patch and network."""
    return json.loads((dataset.base / f"{dataset.plans}.json").read_text(encoding="utf-8"))


@pytest.fixture
def dataset_json(dataset) -> dict:
    return json.loads((dataset.raw / "dataset.json").read_text(encoding="utf-8"))


@pytest.fixture
def new_trainer(plans, dataset_json):
    """Factory of nnU-Net's own trainer, before `initialize`; a subclass and its name may stand for it."""

    def make(cls: type = nnUNetTrainer, configuration: str = "3d_fullres", fold: int = 0) -> nnUNetTrainer:
        return cls(plans | {"continue_training": False}, configuration, fold, dataset_json, torch.device("cpu"))

    return make


@pytest.fixture
def trainer(new_trainer) -> nnUNetTrainer:
    """nnU-Net's own trainer, initialized."""
    made = new_trainer()
    made.initialize()
    return made
