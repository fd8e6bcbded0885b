from nnunet_ssl.methods.adsh import Adsh
from nnunet_ssl.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerAdsh(SemiSupervisedTrainer):
    """Adaptive thresholding, Guo and Li, ICML 2022."""

    method = Adsh
