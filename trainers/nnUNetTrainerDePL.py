from nnunet_ssl.methods.depl import DePL
from nnunet_ssl.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerDePL(SemiSupervisedTrainer):
    """Debiased pseudo-labels, Wang et al., CVPR 2022."""

    method = DePL
