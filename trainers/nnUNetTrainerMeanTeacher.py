from nnunet_ssl.methods.mean_teacher import MeanTeacher
from nnunet_ssl.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerMeanTeacher(SemiSupervisedTrainer):
    """Mean Teacher, Tarvainen and Valpola, NeurIPS 2017."""

    method = MeanTeacher
