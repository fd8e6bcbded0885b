"""A network as methods see it: several batches in, one forward, one `Output` per batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from nnunet_ssl.kinds import Kind
from nnunet_ssl.networks.taps import Features, Taps, join, split


class Output:
    """What a network says of one batch.

    Attributes:
        pyramid: logits of all deep-supervision scales, full resolution first, each (B, C, *spatial).
        kind: whether the C channels are exclusive classes (softmax) or overlapping regions (sigmoid).
        features: of the taps that the method has asked for with `Net.tap`, by name; empty outside of training.
    """

    def __init__(self, pyramid: Sequence[Tensor], kind: Kind, features: Features | None = None):
        self.pyramid = list(pyramid)
        self.kind = kind
        self.features: Features = features or {}

    @property
    def logits(self) -> Tensor:
        """Logits at full resolution, (B, C, *spatial)."""
        return self.pyramid[0]

    @cached_property
    def probs(self) -> Tensor:
        """Probabilities at full resolution in float32, (B, C, *spatial): softmax, or sigmoid for regions."""
        return self.kind.probs(self.logits)

    @cached_property
    def hard(self) -> Tensor:
        """Labels without gradient: the largest class (B, *spatial), or regions above 0.5 (B, C, *spatial)."""
        return self.kind.hard(self.logits)

    @property
    def confidence(self) -> Tensor:
        """Probability of the hard label, in the shape of `hard`, float32, without gradient."""
        return self.kind.confidence(self.probs.detach())

    def detach(self) -> Output:
        """The same at full resolution, without gradient."""
        return Output([self.logits.detach()], self.kind)

    def by_scale(self) -> Iterator[Output]:
        """An output of each scale alone."""
        return (Output([logits], self.kind) for logits in self.pyramid)

    def split(self, sizes: list[int]) -> tuple[Output, ...]:
        """The outputs of the batches that were concatenated for one forward."""
        scales = zip(*(scale.split(sizes) for scale in self.pyramid), strict=True)
        features = split(self.features, sizes)
        return tuple(Output(scale, self.kind, own) for scale, own in zip(scales, features, strict=True))

    @staticmethod
    def join(parts: Sequence[Output]) -> Output:
        """One output of batches that had a forward each."""
        scales = zip(*(part.pyramid for part in parts), strict=True)
        return Output([torch.cat(scale) for scale in scales], parts[0].kind, join([part.features for part in parts]))


@torch.no_grad()
def mean_probs(outputs: Iterable[Output]) -> Tensor:
    """The mean of their probabilities, (B, C, *spatial) in float32, by a running sum: they may be made one by one."""
    total: Any = 0
    count = 0
    for output in outputs:
        total = total + output.probs
        count += 1
    return total / count


class Net:
    """A trained network, possibly compiled or wrapped for DDP, in the form that methods use.

    It is no `nn.Module`: a method that keeps it does not own its weights.

    Args:
        network: the network as the trainer trains it; returns logits (B, C, *spatial) or a list of them, one per scale.
        kind: whether the output channels are classes (softmax) or regions (sigmoid).
        at_once: keeps nothing of a forward but its outputs, and runs so many patches at once again on the way back: a
            third more time for the memory of so many patches, and the same gradients but for rounding and, where there
            is dropout, its draws. A network with a `whole_batch` in it, to which it matters which patches come
            together, runs all of them again.
    """

    def __init__(self, network: nn.Module, kind: Kind, at_once: int | None = None):
        self.network = network
        self.kind = kind
        self.at_once = at_once
        self.taps: Taps | None = None

    def tap(self, *names: str) -> None:
        """Has every forward in training mode give these `Output.features`, see `Taps`; call it once, at set-up.

        Raises:
            NotImplementedError: the network has none, as it is no U-Net of nnU-Net's plans.
        """
        self.taps = Taps(self.module, names)

    @property
    def module(self) -> nn.Module:
        """The plain network, without the wrappers of DDP and torch.compile: copy teachers and twins from here."""
        return unwrap(self.network)

    def alike(self, twin: nn.Module) -> Net:
        """A second trained network with the same output channels, compiled if this one is.

        DDP does not wrap it: the trainer averages the gradients of a method's own parameters.
        """
        return Net(self.compiled(twin), self.kind, self.at_once)

    def compiled(self, module: nn.Module) -> nn.Module:
        """A module of the method, compiled if the student is."""
        compiled: Any = torch.compile  # a module for a module
        return compiled(module) if isinstance(self._local, OptimizedModule) else module

    @property
    def _local(self) -> nn.Module:
        """The network below DDP, possibly compiled."""
        return self.network.module if isinstance(self.network, DistributedDataParallel) else self.network

    @torch.no_grad()
    def predict(self, image: Tensor) -> Output:
        """A forward without gradient, which DDP therefore must not see; for (B, channels, *spatial)."""
        return self._taken(run(self._local, image, self.kind))

    @overload
    def __call__(self, image: Tensor, /) -> Output: ...

    @overload
    def __call__(self, first: Tensor, second: Tensor, /, *more: Tensor) -> tuple[Output, ...]: ...

    def __call__(self, *images: Tensor) -> Output | tuple[Output, ...]:
        """One forward over all batches (B_i, channels, *spatial); an `Output` for one batch, a tuple for several."""
        image = torch.cat(images) if len(images) > 1 else images[0]
        again = self.at_once if torch.is_grad_enabled() else None
        together = self._forward(image) if again is None else self._run_again(image, again)
        return together.split([len(batch) for batch in images]) if len(images) > 1 else together

    def _forward(self, image: Tensor) -> Output:
        return self._taken(run(self.network, image, self.kind))

    def _run_again(self, image: Tensor, patches: int) -> Output:
        """The output of parts of a batch, whose forwards are made again on the way back."""
        if any(hasattr(module, "whole_batch") for module in self.module.modules()):
            patches = len(image)
        with set_checkpoint_early_stop(False):  # to the end, where the taps are emptied
            return Output.join([checkpoint(self._forward, part, use_reentrant=False) for part in image.split(patches)])

    def _taken(self, output: Output) -> Output:
        """The output with the features of its forward."""
        if self.taps is not None:
            output.features = self.taps.take()
        return output


def run(network: nn.Module, image: Tensor | Sequence[Tensor], kind: Kind) -> Output:
    """One forward of a network, or of a decoder on skips, that returns one tensor or a list of scales."""
    result = network(image)
    return Output(result if isinstance(result, (list, tuple)) else [result], kind)


def unwrap(network: nn.Module) -> nn.Module:
    """The network below the wrappers of DDP and torch.compile, in whatever order they lie."""
    while isinstance(network, (DistributedDataParallel, OptimizedModule)):
        network = network.module if isinstance(network, DistributedDataParallel) else network._orig_mod
    return network


@contextmanager
def deep_supervision(network: nn.Module, enabled: bool) -> Iterator[None]:
    """Within the context, the lower-resolution outputs of a network and of its members are on or off."""
    before = {module: module.deep_supervision for module in _with_scales(network)}
    set_deep_supervision(network, enabled)
    try:
        yield
    finally:
        for module, was in before.items():
            module.deep_supervision = was


def set_deep_supervision(network: nn.Module, enabled: bool) -> None:
    """Switches the lower-resolution outputs on or off where the network has any (weights are the same either way)."""
    for module in _with_scales(network):
        module.deep_supervision = enabled


def _with_scales(network: nn.Module) -> list[Any]:
    return [module for module in unwrap(network).modules() if hasattr(module, "deep_supervision")]
