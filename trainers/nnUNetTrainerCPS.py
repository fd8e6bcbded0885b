from nnunet_ssl.methods.cps import CPS
from nnunet_ssl.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerCPS(SemiSupervisedTrainer):
    """Cross pseudo supervision, Chen et al., CVPR 2021."""

    method = CPS
