"""Batches on their way from nnU-Net's loader processes to the device."""

import pytest
import torch
from real_device import DEVICE, ON_GPU
from short_trainings import trainer_of

from nnunet_ssl.data.loader import STREAM

pytestmark = pytest.mark.gpu


@pytest.mark.slow
def test_both_streams_come_pinned_from_worker_processes_and_train(phantom_3d, tmp_path, monkeypatch):
    """Without pinned memory the host waits for each copy to a GPU, whatever `non_blocking` says."""
    dataset = phantom_3d.copy(tmp_path).use(monkeypatch)
    monkeypatch.setenv("nnUNet_n_proc_DA", "2")
    monkeypatch.setenv("nnUNet_compile", "false")
    trainer = trainer_of(dataset, "nnUNetTrainerFixMatch", device=DEVICE)
    trainer.initialize()
    loaders = trainer.get_dataloaders()
    try:
        for step in range(4):
            batch = next(loaders[0])
            views = {name for name in batch if name.startswith(STREAM)}
            assert views == {STREAM + "weak", STREAM + "strong", STREAM + "cases"}
            tensors = [batch["data"], *batch["target"], batch[STREAM + "weak"], batch[STREAM + "strong"]]
            assert [tensor.is_pinned() for tensor in tensors] == [ON_GPU] * len(tensors)
            if step == 0:
                trainer.on_train_epoch_start()
            assert torch.isfinite(trainer.train_step(batch)["loss"])
        assert next(trainer.network.parameters()).device.type == DEVICE.type
    finally:
        for workers in loaders:
            workers.end_at_once()
