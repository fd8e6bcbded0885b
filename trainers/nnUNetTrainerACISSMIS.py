from nnunet_ssl.methods.acissmis import ACISSMIS
from nnunet_ssl.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerACISSMIS(SemiSupervisedTrainer):
    """Class-wise confidence and sampling, Basak et al., MICCAI 2022."""

    method = ACISSMIS
