from nnunet_ssl.methods.self_training import SelfTraining
from nnunet_ssl.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerSelfTraining(SemiSupervisedTrainer):
    """Self-training, Yang et al., CVPR 2022."""

    method = SelfTraining
