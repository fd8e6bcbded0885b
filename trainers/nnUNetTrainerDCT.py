from nnunet_ssl.methods.dct import DCT
from nnunet_ssl.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerDCT(SemiSupervisedTrainer):
    """Deep co-training, Peng et al., Pattern Recognition 2020."""

    method = DCT
