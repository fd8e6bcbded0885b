from nnunet_ssl.methods.supervised_mix import SupervisedMix
from nnunet_ssl.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerSupervisedMix(SemiSupervisedTrainer):
    """Supervised training with boxes of labeled patches in one another, without unlabeled data."""

    method = SupervisedMix
