from nnunet_ssl.methods.dhc import DHC
from nnunet_ssl.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerDHC_labeledOnly(SemiSupervisedTrainer):
    """DHC without its unlabeled term: the control of its class weights."""

    method = DHC
    defaults = {"weight": 0.0}
