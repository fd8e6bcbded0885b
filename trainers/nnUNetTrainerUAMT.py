from nnunet_ssl.methods.ua_mt import UAMT
from nnunet_ssl.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerUAMT(SemiSupervisedTrainer):
    """Uncertainty-aware mean teacher, Yu et al., MICCAI 2019."""

    method = UAMT
