from nnunet_ssl.methods.r_drop import RDrop
from nnunet_ssl.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerRDrop(SemiSupervisedTrainer):
    """Regularized dropout, Liang et al., NeurIPS 2021."""

    method = RDrop
