"""Features of a network's own forward, for losses that need more than logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_ssl.networks.hooks import let_compile_see_hooks

Features = dict[str, Any]  # a tensor, or a list of them for "skips", "decoder" and "gated"
TAPS = ("skips", "bottleneck", "decoder", "head", "gated", "guided")
NO_UNET = "has no encoder and decoder with seg_layers; take a U-Net of nnU-Net's plans."


def require_unet(network: nn.Module) -> Any:
    """The network, known to be an encoder and a decoder as nnU-Net's plans make them.

    Raises:
        NotImplementedError: it is none.
    """
    if not (hasattr(network, "encoder") and hasattr(getattr(network, "decoder", None), "seg_layers")):
        raise NotImplementedError(f"{type(network).__name__} {NO_UNET}")
    return network


class Taps:
    """Keeps features of a network's latest forward in training mode, with their gradient.

    - ``"skips"``: the encoder's features at each of its stages, a list, full resolution first
    - ``"bottleneck"``: those of its last stage
    - ``"decoder"``: the decoder's features at each of its stages, a list, full resolution first
    - ``"head"``: what the segmentation head of full resolution reads, behind dropout if a method has put some there
    - ``"gated"``: what gates leave of the skips (`gated_skips.py`), a list, full resolution first
    - ``"guided"``: what guidance by text makes of the bottleneck (`text_guidance.py`)

    All are (B, features, *spatial). The weights keep their names. A teacher copied from a tapped network is never in
    training mode, so nothing of its forwards is kept.

    Args:
        network: an encoder and a decoder as nnU-Net's plans make them.
        names: which of these; what is not asked for costs nothing.

    Raises:
        NotImplementedError: the network is none, or has no gates or no guidance.
        ValueError: there is no such tap.
    """

    def __init__(self, network: nn.Module, names: tuple[str, ...]):
        unet = require_unet(network)
        if unknown := [name for name in names if name not in TAPS]:
            raise ValueError(f"there is no tap {unknown[0]!r}: known are {', '.join(TAPS)}")
        self.names = names
        self.kept: dict[str, list[Tensor]] = {name: [] for name in names}
        encoder, decoder = unet.encoder, unet.decoder
        if "skips" in names:
            encoder.register_forward_hook(self._after("skips", lambda skips: list(skips)))
        if "bottleneck" in names:
            encoder.register_forward_hook(self._after("bottleneck", lambda skips: [skips[-1]]))
        if "decoder" in names:
            for stage in decoder.stages:
                stage.register_forward_hook(self._after("decoder", lambda features: [features]))
        if "head" in names:
            decoder.seg_layers[-1].register_forward_pre_hook(self._before)
        if "gated" in names:
            if not hasattr(decoder, "gates"):
                raise NotImplementedError(f"{type(network).__name__} has no gated skips.")
            for gate in decoder.gates:
                gate.register_forward_hook(self._after("gated", lambda features: [features]))
        if "guided" in names:
            if not hasattr(unet, "guidance"):
                raise NotImplementedError(f"{type(network).__name__} has no guidance by text.")
            unet.guidance.register_forward_hook(self._after("guided", lambda features: [features]))
        let_compile_see_hooks()

    def take(self) -> Features:
        """The features of the latest forward, once: they are not held longer than a step needs them."""
        taken: Features = {}
        for name, features in self.kept.items():
            if features:
                single = name in ("bottleneck", "head", "guided")
                taken[name] = features[0] if single else features[::-1] if name in ("decoder", "gated") else features
            self.kept[name] = []
        return taken

    def _after(self, name: str, chosen: Callable[[Any], list[Tensor]]) -> Callable[[nn.Module, Any, Any], None]:
        def after(module: nn.Module, args: tuple[Tensor, ...], out: Any) -> None:
            if module.training:
                self.kept[name] = self.kept[name] + chosen(out)

        return after

    def _before(self, head: nn.Module, args: tuple[Tensor, ...]) -> None:
        if head.training:
            self.kept["head"] = [args[0]]


def split(features: Features, sizes: list[int]) -> tuple[Features, ...]:
    """The features of each of the batches that were concatenated for one forward."""
    parts: tuple[Features, ...] = tuple({} for _ in sizes)
    for name, value in features.items():
        scales = [scale.split(sizes) for scale in (value if isinstance(value, list) else [value])]
        for index, part in enumerate(parts):
            own = [scale[index] for scale in scales]
            part[name] = own if isinstance(value, list) else own[0]
    return parts


def join(parts: Sequence[Features]) -> Features:
    """The features of batches that had a forward each, as those of one."""
    joined: Features = {}
    for name, value in parts[0].items():
        own = [part[name] for part in parts]
        joined[name] = list(map(torch.cat, zip(*own, strict=True))) if isinstance(value, list) else torch.cat(own)
    return joined


@contextmanager
def outputs_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """Within the context, what a module of a network that is not compiled gives in each forward, in any mode.

    Whoever reads the list may empty it, so that nothing is held longer than it is needed.
    """
    kept: list[Tensor] = []
    handle = module.register_forward_hook(lambda module, args, out: kept.append(out))
    try:
        yield kept
    finally:
        handle.remove()
