from nnunet_ssl.methods.cct import CCT
from nnunet_ssl.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerCCT(SemiSupervisedTrainer):
    """Cross-consistency training, Ouali et al., CVPR 2020."""

    method = CCT
