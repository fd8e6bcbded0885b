from nnunet_ssl.methods.dst import DST
from nnunet_ssl.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerDST(SemiSupervisedTrainer):
    """Debiased self-training, Chen et al., NeurIPS 2022."""

    method = DST
