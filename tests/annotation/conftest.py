"""A tiny model, trained for a few steps, and its five unlabeled cases."""

import shutil

import pytest
import torch
from lineages import SEMI, fold_of, in_one_process, train
from workbench import InProcess


@pytest.fixture(scope="session")
def trained_folds(phantom_3d, tmp_path_factory):
    """Fold 0 trained for ten steps; fold 1 has its weights with a little noise."""
    dataset = phantom_3d.copy(tmp_path_factory.mktemp("trained_folds"))
    with pytest.MonkeyPatch.context() as patched:
        dataset.use(patched)
        in_one_process(patched)
        train(patched, trainer=SEMI, num_iterations_per_epoch=10)
    shutil.copytree(fold_of(dataset), fold_of(dataset, fold=1))
    file = fold_of(dataset, fold=1) / "checkpoint_final.pth"
    content = torch.load(file, weights_only=False)
    torch.manual_seed(0)
    for weights in content["network_weights"].values():
        weights += 0.1 * weights.abs().mean() * torch.randn_like(weights)
    torch.save(content, file)
    return dataset


@pytest.fixture
def dataset(trained_folds, tmp_path, monkeypatch):
    """A copy of one's own, with workers in this process."""
    monkeypatch.setattr("nnunet_ssl.pools.ProcessPoolExecutor", InProcess)
    return trained_folds.copy(tmp_path).use(monkeypatch)
