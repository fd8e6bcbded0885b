"""The trainer of methods that predict with the mean of two networks."""

from __future__ import annotations

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunet_ssl.networks.average import Average
from nnunet_ssl.trainer import SemiSupervisedTrainer


class AveragingTrainer(SemiSupervisedTrainer):
    """A semi-supervised trainer whose model is an `Average`; nnU-Net's loop trains the first of the two."""

    @staticmethod
    def build_network_architecture(  # nnU-Net looks at the names of the arguments
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """What nnU-Net builds to predict."""
        arguments = (num_input_channels, num_output_channels, enable_deep_supervision)
        first, second = (
            nnUNetTrainer.build_network_architecture(plans_manager, configuration_manager, *arguments) for _ in range(2)
        )
        return Average(first, second)

    def initialize(self) -> None:
        self.build_network_architecture = nnUNetTrainer.build_network_architecture  # of the student and its twin
        super().initialize()
