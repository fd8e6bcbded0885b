from nnunet_ssl.methods.urpc import URPC
from nnunet_ssl.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerURPC(SemiSupervisedTrainer):
    """Uncertainty rectified pyramid consistency, Luo et al., MICCAI 2021."""

    method = URPC
