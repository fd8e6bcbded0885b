from nnunet_ssl.methods.simis import SimiS
from nnunet_ssl.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerSimiS(SemiSupervisedTrainer):
    """SimiS as class weights, Chen et al., arXiv 2022, in the form of DHC's tables."""

    method = SimiS
