from nnunet_ssl.methods.fixmatch_cta import FixMatchCTA
from nnunet_ssl.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerFixMatchCTA(SemiSupervisedTrainer):
    """FixMatch with CTAugment, Sohn et al., NeurIPS 2020, and Berthelot et al., ICLR 2020."""

    method = FixMatchCTA
