from nnunet_ssl.methods.ac_mt_serr import ACMT_SErr
from nnunet_ssl.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerACMT_SErr(SemiSupervisedTrainer):
    """Ambiguity-consensus mean teacher by confident learning, Xu et al., Medical Image Analysis 2023."""

    method = ACMT_SErr
