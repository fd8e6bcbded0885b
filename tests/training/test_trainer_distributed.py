"""Two processes in nnU-Net's own loop: equal networks and statistics, split batches, the state of both ranks saved."""

import json
import os

import pytest
import torch
from torch import multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel
from workbench import one_rank


def train_rank(rank, world, dataset, name, folder):
    """One rank of `nnUNetv2_train -num_gpus 2`, on the CPU: only the device and the DDP wrapper are replaced."""
    for kind in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{kind}"] = str(dataset.root / kind)
    os.environ["nnUNet_n_proc_DA"] = "0"
    length = "num_epochs: 1, num_iterations_per_epoch: 3, num_val_iterations_per_epoch: 1"
    os.environ["nnUNet_ssl_config"] = f"{{{length}, seed: 0, unlabeled_batch_size: 4}}"
    from nnunetv2.run.run_training import get_trainer_from_args
    from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as nnunet

    with one_rank(rank, world, folder):
        trainer = get_trainer_from_args(dataset.name, "3d_fullres", 0, name, dataset.plans, device=torch.device("cpu"))
        trainer.device, trainer.grad_scaler = torch.device("cpu"), None
        nnunet.DDP = lambda network, device_ids: DistributedDataParallel(network)
        trainer.logger.local_logger.plot_progress_png = lambda *args: None
        sizes = []
        losses = type(trainer).method.losses

        def seen(self, net, labeled, unlabeled, now):
            sizes.append((len(labeled.image), len(unlabeled.weak)))
            return losses(self, net, labeled, unlabeled, now)

        type(trainer).method.losses = seen
        trainer.run_training()
        torch.save(
            {"net": trainer.net.module.state_dict(), "method": trainer.method.state_dict(), "sizes": sizes},
            f"{folder}/rank_{rank}",
        )


@pytest.mark.parametrize("name", ["nnUNetTrainerMeanTeacher", "nnUNetTrainerDHC"])
def test_two_ranks_stay_equal(phantom_3d, tmp_path, name):
    dataset = phantom_3d.copy(tmp_path)
    mp.spawn(train_rank, (2, dataset, name, tmp_path), nprocs=2)
    ranks = [torch.load(tmp_path / f"rank_{rank}", weights_only=True) for rank in range(2)]
    for part in ("net", "method"):
        for key, value in ranks[0][part].items():
            torch.testing.assert_close(value, ranks[1][part][key], msg=f"{part} {key} differs between ranks")
    assert ranks[0]["sizes"] == ranks[1]["sizes"] == [(1, 2)] * 3
    results = dataset.root / "results" / dataset.name / f"{name}__nnUNetPlans_tiny__3d_fullres" / "fold_0"
    saved = torch.load(results / "checkpoint_final.pth", weights_only=False)["semi_supervised"]
    assert len(saved["random_states"]) == 2
    assert not torch.equal(saved["random_states"][0]["torch"], saved["random_states"][1]["torch"])
    assert json.loads((results / "debug.json").read_text(encoding="utf-8"))["hyperparameters"]
