from nnunet_ssl.averaging_trainer import AveragingTrainer
from nnunet_ssl.methods.dhc import DHC


class nnUNetTrainerDHC_labeledOnly(AveragingTrainer):
    """DHC without its unlabeled term: the control of its class weights."""

    method = DHC
    defaults = {"weight": 0.0}
