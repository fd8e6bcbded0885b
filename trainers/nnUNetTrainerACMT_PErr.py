from nnunet_ssl.methods.ac_mt_perr import ACMT_PErr
from nnunet_ssl.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerACMT_PErr(SemiSupervisedTrainer):
    """Ambiguity-consensus mean teacher by disagreement with prototypes, Xu et al., Medical Image Analysis 2023."""

    method = ACMT_PErr
