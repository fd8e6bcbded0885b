from nnunet_ssl.methods.cutmix import CutMix
from nnunet_ssl.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerCutMix(SemiSupervisedTrainer):
    """CutMix consistency, French et al., BMVC 2020."""

    method = CutMix
