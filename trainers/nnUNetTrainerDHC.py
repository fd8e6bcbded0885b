from nnunet_ssl.methods.dhc import DHC
from nnunet_ssl.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerDHC(SemiSupervisedTrainer):
    """Dual-debiased heterogeneous co-training, Wang and Li, MICCAI 2023."""

    method = DHC
