from nnunet_ssl.methods.generic_ssl import GenericSSL
from nnunet_ssl.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerGenericSSL(SemiSupervisedTrainer):
    """Aggregating and decoupling, Wang and Li, NeurIPS 2023."""

    method = GenericSSL
