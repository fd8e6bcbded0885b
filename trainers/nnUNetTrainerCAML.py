from nnunet_ssl.methods.caml import CAML
from nnunet_ssl.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerCAML(SemiSupervisedTrainer):
    """Correlation-aware mutual learning, Gao et al., MICCAI 2023."""

    method = CAML
