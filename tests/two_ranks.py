"""What each of two processes does that train together, on the CPU or on one GPU."""

import os

import torch
from real_device import DEVICE, ON_GPU
from torch.nn.parallel import DistributedDataParallel
from workbench import one_rank


def train_rank(rank, world, dataset, name, folder, case_maps=None):
    """One rank of `nnUNetv2_train -num_gpus 2`: only the device, one for both, and the DDP wrapper are replaced."""
    for kind in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{kind}"] = str(dataset.root / kind)
    os.environ["nnUNet_n_proc_DA"] = "0"
    length = "num_epochs: 1, num_iterations_per_epoch: 3, num_val_iterations_per_epoch: 1"
    os.environ["nnUNet_ssl_config"] = f"{{{length}, seed: 0, unlabeled_batch_size: 4}}"
    from nnunetv2.run.run_training import get_trainer_from_args
    from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as nnunet

    with one_rank(rank, world, folder):
        trainer = get_trainer_from_args(dataset.name, "3d_fullres", 0, name, dataset.plans, device=torch.device("cpu"))
        trainer.device = DEVICE
        trainer.grad_scaler = torch.amp.GradScaler("cuda") if ON_GPU else None
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
