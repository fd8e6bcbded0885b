from nnunet_ssl.methods.fixmatch import FixMatch
from nnunet_ssl.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerFixMatch(SemiSupervisedTrainer):
    """FixMatch, Sohn et al., NeurIPS 2020."""

    method = FixMatch
