from nnunet_ssl.methods.ss_net import SSNet
from nnunet_ssl.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerSSNet(SemiSupervisedTrainer):
    """Smoothness and class-separation, Wu et al., MICCAI 2022."""

    method = SSNet
