from nnunet_ssl.methods.co_bionet import CoBioNet
from nnunet_ssl.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerCoBioNet(SemiSupervisedTrainer):
    """Co-BioNet, Peiris et al., Nature Machine Intelligence 2023."""

    method = CoBioNet
