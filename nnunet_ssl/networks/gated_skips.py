"""Skips behind attention gates, each of which the features that the decoder has brought to its resolution open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nnunet_ssl.networks.architecture import Architecture
from nnunet_ssl.networks.taps import require_unet

FINEST = 32  # features inside of the gate of full resolution; the others have half of their skip's


class Gate(nn.Module):
    """Additive attention: x sigmoid(psi(relu(a(g) + b(x)))); psi, a and b are convolutions of one voxel, with norms.

    Args:
        encoder: of nnU-Net's plans, whose kind of convolution and of norm the gate has.
        features: of g and of x.
        inner: of a and of b.

    Source: the gates of Oktay et al., "Attention U-Net", MIDL 2018, where g has the resolution of x.
    """

    def __init__(self, encoder: Any, features: int, inner: int):
        super().__init__()

        def layer(features: int, out: int) -> nn.Sequential:
            norm = encoder.norm_op(out, **(encoder.norm_op_kwargs or {})) if encoder.norm_op else nn.Identity()
            return nn.Sequential(encoder.conv_op(features, out, 1), norm)

        self.a, self.b, self.psi = layer(features, inner), layer(features, inner), layer(inner, 1)

    def forward(self, g: Tensor, x: Tensor) -> Tensor:
        """What the gate leaves of the skip x, for features g of the decoder, all (B, features, *spatial).

        The backward pass makes the features inside again: kept, they would take more than a third of the network's.
        """
        return x * checkpoint(self.opened, g, x, use_reentrant=False, preserve_rng_state=False)

    def opened(self, g: Tensor, x: Tensor) -> Tensor:
        """The factor of each voxel, (B, 1, *spatial)."""
        return self.psi(torch.relu(self.a(g) + self.b(x))).sigmoid()


class GatedDecoder(nn.Module):
    """The decoder of a plan's U-Net with a gate in each skip; all weights of the plan's network keep their names.

    Args:
        decoder: whose parts it takes over.

    Attributes:
        gates: in the order of the decoder's stages, lowest resolution first.
    """

    def __init__(self, decoder: Any):
        super().__init__()
        self.deep_supervision: bool = decoder.deep_supervision
        self.encoder, self.stages = decoder.encoder, decoder.stages  # the encoder for its weights' names, as nnU-Net's
        self.transpconvs, self.seg_layers = decoder.transpconvs, decoder.seg_layers
        features = [transposed.out_channels for transposed in self.transpconvs]
        inner = [max(1, each // 2) for each in features[:-1]] + [FINEST]
        self.gates = nn.ModuleList(Gate(self.encoder, *sizes) for sizes in zip(features, inner, strict=True))

    def forward(self, skips: Sequence[Tensor]) -> Tensor | list[Tensor]:
        """Logits (B, C, *spatial), or a list of them over scales, full resolution first, as is the list of skips."""
        features, read = skips[-1], []
        parts = zip(self.transpconvs, self.gates, self.stages, reversed(skips[:-1]), strict=True)
        for transposed, gate, stage, skip in parts:
            g = transposed(features)
            features = stage(torch.cat((g, gate(g, skip)), 1))
            read.append(features)
        if not self.deep_supervision:
            return self.seg_layers[-1](features)
        return [head(each) for head, each in zip(self.seg_layers, read, strict=True)][::-1]


def with_gated_skips(architecture: Architecture) -> nn.Module:
    """The plan's network, plain or with a residual encoder, with a gate in each skip.

    Raises:
        NotImplementedError: it is no U-Net of nnU-Net's plans, or a trainer builds a network of its own, which would
            predict without gates.
    """
    architecture.require_planned("has no gated skips")
    network = require_unet(architecture())
    network.decoder = GatedDecoder(network.decoder)
    return network
