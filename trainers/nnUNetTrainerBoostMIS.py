from nnunet_ssl.methods.boostmis import BoostMIS
from nnunet_ssl.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerBoostMIS(SemiSupervisedTrainer):
    """BoostMIS, Zhang et al., CVPR 2022."""

    method = BoostMIS
