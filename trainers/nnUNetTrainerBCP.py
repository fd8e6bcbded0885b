from nnunet_ssl.methods.bcp import BCP
from nnunet_ssl.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerBCP(SemiSupervisedTrainer):
    """Bidirectional Copy-Paste, Bai et al., CVPR 2023."""

    method = BCP
