from nnunet_ssl.averaging_trainer import AveragingTrainer
from nnunet_ssl.methods.dhc import DHC


class nnUNetTrainerDHC(AveragingTrainer):
    """Dual-debiased heterogeneous co-training, Wang and Li, MICCAI 2023."""

    method = DHC
