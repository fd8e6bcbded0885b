from nnunet_ssl.methods.entropy_minimization import EntropyMinimization
from nnunet_ssl.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerEntropyMinimization(SemiSupervisedTrainer):
    """Entropy minimization, Grandvalet and Bengio, NeurIPS 2004; Vu et al., CVPR 2019."""

    method = EntropyMinimization
