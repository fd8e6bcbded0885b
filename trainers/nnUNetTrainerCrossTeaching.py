from nnunet_ssl.methods.cross_teaching import CrossTeaching
from nnunet_ssl.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerCrossTeaching(SemiSupervisedTrainer):
    """Cross teaching between CNN and transformer, Luo et al., MIDL 2022."""

    method = CrossTeaching
