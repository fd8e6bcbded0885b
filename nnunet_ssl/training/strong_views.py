"""Where the strong views of a training are made, and what is drawn for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from nnunet_ssl.augmentation.strong_views import StrongViews
from nnunet_ssl.data.views import Views

if TYPE_CHECKING:
    from nnunet_ssl.training.trainer import SemiSupervisedTrainer


def generator_of(seed: int | None, rank: int) -> torch.Generator:
    """Of a stream that nothing else draws from; with a seed its own on each rank."""
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(int(np.random.SeedSequence([seed, rank]).generate_state(1)[0]))
    return generator


def made_on_device(trainer: SemiSupervisedTrainer, views: Views) -> StrongViews | None:
    """What makes strong views of those that the loaders give from now on; None where the loaders make them.

    They do where the training has no GPU, which has nothing to gain and draws what it always drew, and where nnU-Net's
    augmentation has a change of intensity that is not written for the device; then the log names it.
    """
    if "strong" not in views.views or not trainer.strong_views_on_device():
        return None
    axes = len(trainer.configuration_manager.patch_size)
    channels = trainer.num_input_channels - (len(views.join.all_labels) if views.join is not None else 0)
    masked = views.mask.apply_to_channels if views.mask is not None else ()
    try:
        made = StrongViews(views.intensity, axes, channels, masked, trainer.strong_draws, trainer.device)
    except NotImplementedError as reason:
        trainer.print_to_log_file(f"strong views are made by the loaders, for want of {reason}")
        return None
    views.hand_over_intensity()
    trainer.print_to_log_file("strong views are made on the device")
    return made
