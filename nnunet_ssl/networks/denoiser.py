"""A U-Net of nnU-Net's plans beside another one whose encoder it shares, told the time of a diffusion.

    stem          the encoder's first convolution once more, for the image and a noisy label map
    e(t)          two layers on sines and cosines of the time, 512 features
    fusion        + W swish(e(t)) on the features of all voxels: behind each block but the last of a stage, behind the
                  first of each stage that goes down, and behind each transposed convolution of the decoder

Blocks are convolutions with norm and nonlinearity, or residual blocks. The encoder's own weights keep their names: it
belongs to the other network, and what stands here reads it stage by stage, without hooks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_ssl.networks.architecture import Architecture
from nnunet_ssl.networks.decoders import further_decoder
from nnunet_ssl.networks.diffusion import time_waves
from nnunet_ssl.networks.taps import require_unet

WAVES, WIDTH = 128, 512  # features of the time, before and behind its two layers


class Fusions(nn.ModuleDict):
    """Where and how the time enters a stage: a layer for some of its blocks, by their number."""

    def __init__(self, stage: nn.Module, goes_down: bool):
        blocks = list(blocks_of(stage))
        first = next(number for number, block in enumerate(blocks) if hasattr(block, "output_channels"))
        told = [*range(first, len(blocks) - 1), *([first] if goes_down else [])]  # a pooling before them is no block
        super().__init__({str(n): nn.Linear(WIDTH, int(blocks[n].output_channels)) for n in dict.fromkeys(told)})


class Denoiser(nn.Module):
    """All of a U-Net that takes noise from label maps, but for the encoder: stem, time, and a decoder of its own.

    Args:
        architecture: of the network whose encoder it shares.

    Raises:
        NotImplementedError: it is no U-Net of nnU-Net's plans.
    """

    decoder: Any

    def __init__(self, architecture: Architecture):
        super().__init__()
        network: Any = require_unet(architecture.with_further_input(architecture.output_channels)())
        encoder: Any = network.encoder
        self.has_stem = has_stem(encoder)
        self.stem = encoder.stem if self.has_stem else next(blocks_of(encoder.stages[0]))
        self.time = nn.Sequential(nn.Linear(WAVES, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU())
        self.down = nn.ModuleList(Fusions(stage, number > 0) for number, stage in enumerate(encoder.stages))
        self.decoder = further_decoder(network, scales=True)
        self.up = nn.ModuleList(nn.Linear(WIDTH, each.out_channels) for each in self.decoder.transpconvs)
        self.stages = nn.ModuleList(Fusions(stage, False) for stage in self.decoder.stages)

    def encode(self, encoder: Any, x: Tensor, time: Tensor) -> list[Tensor]:
        """The skips that a shared encoder makes of image and label map, (B, channels + C, *spatial)."""
        skips = []
        for number, (stage, fusions) in enumerate(zip(encoder.stages, self.down, strict=True)):
            if number == 0 and self.has_stem:
                x = self.stem(x)
            first = self.stem if number == 0 and not self.has_stem else None
            x = run_stage(stage, x, fusions, time, first)
            skips.append(x)
        return skips

    def decode(self, skips: list[Tensor], time: Tensor) -> list[Tensor]:
        """Logits at all scales, full resolution first."""
        decoder, x, scales = self.decoder, skips[-1], []
        for number, (stage, fusions) in enumerate(zip(decoder.stages, self.stages, strict=True)):
            x = fused(decoder.transpconvs[number](x), self.up[number](time))
            x = run_stage(stage, torch.cat((x, skips[-(number + 2)]), 1), fusions, time)
            scales.append(decoder.seg_layers[number](x))
        return scales[::-1]


class DenoisingPath(nn.Module):
    """A shared encoder and a `Denoiser`: what is compiled as one. It owns neither; let no method register it.

    Called with an image (B, channels, *spatial), a noisy label map (B, C, *spatial) and times (B,), gives the logits
    of what lies beneath at all scales, full resolution first.
    """

    def __init__(self, encoder: nn.Module, denoiser: Denoiser):
        super().__init__()
        self.encoder, self.denoiser = encoder, denoiser

    def forward(self, image: Tensor, noisy: Tensor, times: Tensor) -> list[Tensor]:
        time = self.denoiser.time(time_waves(times, WAVES))
        skips = self.denoiser.encode(self.encoder, torch.cat((image, noisy), 1), time)
        return self.denoiser.decode(skips, time)


class PlainPath(nn.Module):
    """A shared encoder and a further decoder: what is compiled as one. It owns neither; let no method register it.

    Called with an image, or with the skips that a pass of the encoder has given, gives the decoder's logits. Taps of
    the encoder keep nothing of it.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, seen: Tensor | list[Tensor]) -> Any:
        return self.decoder(encode(self.encoder, seen) if isinstance(seen, Tensor) else seen)


def encode(encoder: Any, image: Tensor) -> list[Tensor]:
    """The skips of an image, full resolution first, as the encoder itself makes them, without its hooks."""
    x, skips = encoder.stem(image) if has_stem(encoder) else image, []
    for stage in encoder.stages:
        x = stage(x)
        skips.append(x)
    return skips


def run_stage(stage: nn.Module, x: Tensor, fusions: Any, time: Tensor, first: nn.Module | None = None) -> Tensor:
    """The stage's blocks, told the time; `first` may stand in the place of the first of them."""
    for number, block in enumerate(blocks_of(stage)):
        x = first(x) if number == 0 and first is not None else block(x)
        if str(number) in fusions:
            x = fused(x, fusions[str(number)](time))
    return x


def fused(features: Tensor, shift: Tensor) -> Tensor:
    """Features (B, F, *spatial) plus a shift of each, (B, F)."""
    return features + shift.view(*shift.shape, *[1] * (features.ndim - 2))


def has_stem(encoder: Any) -> bool:
    """Whether an encoder has blocks before its first stage, as residual ones have."""
    return getattr(encoder, "stem", None) is not None


def blocks_of(stage: Any) -> Iterator[Any]:
    """The blocks of a stage of nnU-Net's U-Nets in order, a pooling before them among them."""
    if isinstance(stage, nn.Sequential):
        for part in stage:
            yield from blocks_of(part)
    else:
        inner = getattr(stage, "convs", getattr(stage, "blocks", None))
        yield from (inner if inner is not None else (stage,))
