from nnunet_ssl.methods.dan import DAN
from nnunet_ssl.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerDAN(SemiSupervisedTrainer):
    """Deep adversarial networks, Zhang et al., MICCAI 2017."""

    method = DAN
