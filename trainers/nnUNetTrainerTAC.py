from nnunet_ssl.methods.tac import TAC
from nnunet_ssl.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerTAC(SemiSupervisedTrainer):
    """Task-affinity consistency, Chen et al., TMI 2023."""

    method = TAC
