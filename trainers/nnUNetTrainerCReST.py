from nnunet_ssl.methods.crest import CReST
from nnunet_ssl.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerCReST(SemiSupervisedTrainer):
    """Class-rebalancing self-training, Wei et al., CVPR 2021."""

    method = CReST
