from nnunet_ssl.training.configured import ConfiguredTrainer


class nnUNetTrainerSupervised(ConfiguredTrainer):
    """nnU-Net's own training without unlabeled data, at the length that nnUNet_ssl_config sets: the baseline."""
