from nnunet_ssl.averaging_trainer import AveragingTrainer
from nnunet_ssl.methods.dhc import DHC


class nnUNetTrainerDHC_diffOnly(AveragingTrainer):
    """DHC with difficulty weights for both networks."""

    method = DHC
    defaults = {"weighting": "difficulty"}
