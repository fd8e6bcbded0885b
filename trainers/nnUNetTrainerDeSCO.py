from nnunet_ssl.methods.desco import DeSCO
from nnunet_ssl.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerDeSCO(SemiSupervisedTrainer):
    """Dense-sparse co-training, Cai et al., CVPR 2023."""

    method = DeSCO
