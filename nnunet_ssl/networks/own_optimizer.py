"""An optimizer beside nnU-Net's, as a part of a method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_ssl.distributed import average_gradients
from nnunet_ssl.schedules import polynomial_decay

MAX_GRADIENT_NORM = 12.0  # nnU-Net's


class OwnOptimizer(nn.Module):
    """Holds the optimizer of a network that nnU-Net's must not train; its state is part of the method's state.

    The trainer steps it together with nnU-Net's after the common backward. If the network is frozen when this is made,
    as a discriminator is, the method makes the steps itself with `minimize`.

    Args:
        optimizer: over parameters of the method.
        max_norm: the gradient is clipped to this norm.
        warmup: fraction of training over which `follow` raises the learning rate.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, max_norm: float = MAX_GRADIENT_NORM, warmup: float = 0.0):
        super().__init__()
        self.optimizer = optimizer
        self.warmup = warmup
        for group in optimizer.param_groups:
            group["max_norm"] = max_norm
        self.joint = all(parameter.requires_grad for parameter in self.trained)

    @property
    def trained(self) -> list[nn.Parameter]:
        """The parameters that it steps."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def follow(self, fraction: float) -> None:
        """Sets the learning rate for a fraction of training done: linear warm-up, then nnU-Net's polynomial decay."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.optimizer.defaults["lr"] * polynomial_decay(fraction, self.warmup)

    @torch.enable_grad()
    def minimize(self, loss: Callable[[], Tensor]) -> Tensor:
        """A step on a loss of its own, of a network that is frozen but for this step; gives the loss.

        The gradient is the mean over ranks, without clipping.
        """
        for parameter in self.trained:
            parameter.requires_grad_(True)
        self.optimizer.zero_grad()
        value = loss()
        value.backward()
        average_gradients(self.trained)
        for parameter in self.trained:
            if parameter.grad is not None:  # predictions that overflowed in half precision teach nothing
                parameter.grad.nan_to_num_(0, 0, 0)
        self.optimizer.step()
        for parameter in self.trained:
            parameter.requires_grad_(False)
        return value.detach()

    def get_extra_state(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state)
