"""Channel dropout for networks that have none, added from outside so that no weight changes its name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from nnunet_ssl.networks.hooks import let_compile_see_hooks
from nnunet_ssl.networks.net import Output, mean_probs


def dropout_places(network: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Where dropout acts: the output of the last encoder stage and the input of the full-resolution head.

    Raises:
        NotImplementedError: the network is not an encoder with stages and a decoder with segmentation layers.
    """
    try:
        unet: Any = network
        return unet.encoder.stages[-1], unet.decoder.seg_layers[-1]
    except AttributeError:
        raise NotImplementedError(
            f"{type(network).__name__} has no encoder.stages and decoder.seg_layers to put dropout into; "
            "take a U-Net of nnU-Net's plans or a method without stochastic passes."
        ) from None


def add_dropout(network: nn.Module, p: float) -> None:
    """From now on forwards of `network` in training mode drop whole feature channels with probability `p`, afresh each.

    nnU-Net's networks have no dropout and instance norm has no batch statistics, so repeated passes would be equal.
    The places are those of the V-Net of Yu et al., MICCAI 2019: bottleneck features, and the features that the last
    1x1 convolution reads. Weights keep their names.
    """
    _register(network, p)
    let_compile_see_hooks()


def _register(network: nn.Module, p: float) -> list[RemovableHandle]:
    bottleneck, head = dropout_places(network)

    def after(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        return torch.feature_dropout(out, p, module.training)

    def before(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (torch.feature_dropout(args[0], p, module.training),)

    return [bottleneck.register_forward_hook(after), head.register_forward_pre_hook(before)]


@contextmanager
def channel_dropout(network: nn.Module, p: float) -> Iterator[None]:
    """Within the context, forwards of `network` have the dropout of `add_dropout`, also in evaluation mode."""
    places = dropout_places(network)
    handles, training = _register(network, p), [place.training for place in places]
    try:
        for place in places:
            place.training = True
        yield
    finally:
        for handle in handles:
            handle.remove()
        for place, was in zip(places, training, strict=True):
            place.training = was


@torch.no_grad()
def mean_prediction(
    network: nn.Module, predict: Callable[[Tensor], Output], images: Iterable[Tensor], p: float
) -> Tensor:
    """The mean of the probabilities for several images (B, channels, *spatial), each with dropout of its own.

    (B, C, *spatial) in float32 and without gradient, by a running sum: the images may be made one after the other.

    Args:
        network: what has the dropout.
        predict: a forward of it, not compiled.
        p: as in `channel_dropout`.
    """
    with channel_dropout(network, p):
        return mean_probs(predict(image) for image in images)
