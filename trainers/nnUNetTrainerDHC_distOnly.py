from nnunet_ssl.methods.dhc import DHC
from nnunet_ssl.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerDHC_distOnly(SemiSupervisedTrainer):
    """DHC with distribution weights for both networks."""

    method = DHC
    defaults = {"weighting": "distribution"}
