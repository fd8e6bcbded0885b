from nnunet_ssl.methods.ict import ICT
from nnunet_ssl.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerICT(SemiSupervisedTrainer):
    """Interpolation consistency training, Verma et al., IJCAI 2019."""

    method = ICT
