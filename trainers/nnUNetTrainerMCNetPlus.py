from nnunet_ssl.methods.mc_net import MCNetPlus
from nnunet_ssl.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerMCNetPlus(SemiSupervisedTrainer):
    """Mutual consistency of three decoders, Wu et al., Medical Image Analysis 2022."""

    method = MCNetPlus
