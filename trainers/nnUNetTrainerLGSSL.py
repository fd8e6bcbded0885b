from nnunet_ssl.methods.lg_ssl import LGSSL
from nnunet_ssl.training.trainer import SemiSupervisedTrainer


class nnUNetTrainerLGSSL(SemiSupervisedTrainer):
    """Language-guided visual representation learning, Universal-Medical-SSL, 2025."""

    method = LGSSL

    def initialize(self) -> None:
        super().initialize()
        self.print_to_log_file(f"text of the classes: {self.method.text}")
