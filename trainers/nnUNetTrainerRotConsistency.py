from nnunet_ssl.methods.rot_consistency import RotConsistency
from nnunet_ssl.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerRotConsistency(SemiSupervisedTrainer):
    """Rotation consistency, what SSL4MIS calls deep co-training."""

    method = RotConsistency
