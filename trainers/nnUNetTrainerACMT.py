from nnunet_ssl.methods.ac_mt import ACMT
from nnunet_ssl.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerACMT(SemiSupervisedTrainer):
    """Ambiguity-consensus mean teacher by entropy, Xu et al., Medical Image Analysis 2023."""

    method = ACMT
