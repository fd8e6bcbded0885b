from nnunet_ssl.methods.mcf import MCF
from nnunet_ssl.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerMCF(SemiSupervisedTrainer):
    """Mutual Correction Framework, Wang et al., CVPR 2023."""

    method = MCF
