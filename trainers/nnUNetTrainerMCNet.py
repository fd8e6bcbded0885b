from nnunet_ssl.methods.mc_net import MCNet
from nnunet_ssl.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerMCNet(SemiSupervisedTrainer):
    """Mutual consistency of decoders, Wu et al., MICCAI 2021."""

    method = MCNet
