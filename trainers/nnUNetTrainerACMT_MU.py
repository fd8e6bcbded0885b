from nnunet_ssl.methods.ac_mt import ACMT_MU
from nnunet_ssl.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerACMT_MU(SemiSupervisedTrainer):
    """Ambiguity-consensus mean teacher by uncertainty over several passes, Xu et al., Medical Image Analysis 2023."""

    method = ACMT_MU
