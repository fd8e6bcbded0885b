from nnunet_ssl.averaging_trainer import AveragingTrainer
from nnunet_ssl.methods.dhc import DHC


class nnUNetTrainerDHC_distOnly(AveragingTrainer):
    """DHC with distribution weights for both networks."""

    method = DHC
    defaults = {"weighting": "distribution"}
