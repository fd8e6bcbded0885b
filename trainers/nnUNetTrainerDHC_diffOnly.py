from nnunet_ssl.methods.dhc import DHC
from nnunet_ssl.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerDHC_diffOnly(SemiSupervisedTrainer):
    """DHC with difficulty weights for both networks."""

    method = DHC
    defaults = {"weighting": "difficulty"}
