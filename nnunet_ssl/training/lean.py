"""Lean steps: about the memory of nnU-Net's own, for a third more time; see `nnunet_ssl.networks.net.Net`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from nnunet_ssl.errors import InputError

if TYPE_CHECKING:
    from nnunet_ssl.training.trainer import SemiSupervisedTrainer


def patches_at_once(trainer: SemiSupervisedTrainer) -> int | None:
    """Of a lean step, as many as nnU-Net's own has; None for all.

    Raises:
        InputError: several GPUs train, or the network has statistics of the batch.
    """
    if not trainer.lean:
        return None
    if trainer.is_ddp:
        raise InputError("lean: true (nnUNet_ssl_config) is for one GPU: leave it out, or train on one.")
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in trainer.network.modules()):
        raise InputError(
            "lean: true (nnUNet_ssl_config) runs patches again on the way back, which a network with batch "
            "normalization counts twice: leave it out, or take plans whose network has none."
        )
    return trainer.batch_size
