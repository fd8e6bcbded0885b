"""Two processes in nnU-Net's own loop: equal networks and statistics, split batches, the state of both ranks saved."""

import json
import os

import pytest
import torch
from torch import multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel
from workbench import one_rank


def where_the_liver_is(method, case, segmentation, spacing):
    return segmentation[None] == 1


def train_rank(rank, world, dataset, name, folder, case_maps=None):
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
        type(trainer).method.case_maps = case_maps
        sizes, given, missing = [], [], []
        losses = type(trainer).method.losses

        def seen(self, net, labeled, unlabeled, now):
            sizes.append((len(labeled.image), len(unlabeled.weak)))
            given.append((labeled.image, labeled.target.scales[0], labeled.maps))
            missing.append(labeled.target.missing is not None and bool(labeled.target.missing.any()))
            return losses(self, net, labeled, unlabeled, now)

        type(trainer).method.losses = seen
        trainer.run_training()
        torch.save(
            {
                "net": trainer.net.module.state_dict(), "method": trainer.method.state_dict(), "sizes": sizes,
                "given": given, "missing": missing,
            },
            f"{folder}/rank_{rank}",
        )  # fmt: skip


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


def test_ranks_share_the_making_of_maps_and_get_the_patches_that_they_would_without(phantom_3d, tmp_path):
    given = []
    for case_maps in (None, where_the_liver_is):
        folder = tmp_path / str(case_maps is not None)
        folder.mkdir()
        dataset = phantom_3d.copy(folder)
        mp.spawn(train_rank, (2, dataset, "nnUNetTrainerMeanTeacher", folder, case_maps), nprocs=2)
        given.append([torch.load(folder / f"rank_{rank}", weights_only=True)["given"] for rank in range(2)])
    (made,) = (dataset.root / "results").glob("*/*/fold_0/case_maps")
    train = json.loads((dataset.base / "splits_final.json").read_text(encoding="utf-8"))[0]["train"]
    assert {file.stem for file in made.iterdir()} == set(train)
    for without, with_maps in zip(*given, strict=True):
        assert len(without) == len(with_maps) == 3
        for (image, target, nothing), (same_image, same_target, maps) in zip(without, with_maps, strict=True):
            assert torch.equal(image, same_image) and torch.equal(target, same_target)
            assert nothing.shape[1] == 0 and maps.shape == image.shape
            sure = (maps - 0.5).abs() > 0.45
            assert torch.equal((maps > 0.5)[sure], (target == 1)[sure])
    assert not torch.equal(given[1][0][0][0], given[1][1][0][0])  # each rank has patches of its own
