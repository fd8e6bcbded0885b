from nnunet_ssl.methods.cld import CLD
from nnunet_ssl.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerCLD(SemiSupervisedTrainer):
    """Calibrating label distribution, Lin et al., MICCAI 2022."""

    method = CLD
