"""Perturbation of what the low-resolution heads read, added from outside so that no weight changes its name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_ssl.networks.hooks import let_compile_see_hooks

Perturbation = Callable[[Tensor], Tensor]


class PerturbedHeads:
    """From now on the heads of lower scales read perturbed features, in training mode, from row `first` of a batch on.

    The full-resolution head and what a decoder stage hands to the next one are never perturbed. Every forward draws
    afresh.

    Args:
        network: its `decoder.seg_layers` are the heads, lowest resolution first.
        perturbations: for the scales below full resolution, the largest first; lower scales than these have none.

    Attributes:
        first: index in the batch of the first patch whose features are perturbed.

    Raises:
        NotImplementedError: the network has no decoder with segmentation layers.
    """

    def __init__(self, network: nn.Module, perturbations: Sequence[Perturbation]):
        self.first = 0
        try:
            decoder: Any = network.decoder
            heads = list(decoder.seg_layers)
        except AttributeError:
            raise NotImplementedError(
                f"{type(network).__name__} has no decoder.seg_layers whose features could be perturbed; take a U-Net "
                "of nnU-Net's plans or switch the perturbation off."
            ) from None
        for head, perturb in zip(heads[-2::-1], perturbations, strict=False):
            head.register_forward_pre_hook(self._before(perturb))
        let_compile_see_hooks()

    def _before(self, perturb: Perturbation) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
        def before(head: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            features = args[0]
            if not head.training:
                return args
            return (torch.cat((features[: self.first], perturb(features[self.first :]))),)

        return before
