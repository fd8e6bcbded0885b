from nnunet_ssl.methods.dhc import DHC
from nnunet_ssl.trainer import SemiSupervisedTrainer


class nnUNetTrainerDHC_diffOnly(SemiSupervisedTrainer):
    """DHC with difficulty weights for both networks."""

    method = DHC
    defaults = {"weighting": "difficulty"}
