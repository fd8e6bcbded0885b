"""Attention among the voxels of a patch and among the patches of a batch, inside of an encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_ssl.distributed import rank, world_of_batches
from nnunet_ssl.networks.architecture import Architecture
from nnunet_ssl.networks.decoders import further_decoder
from nnunet_ssl.networks.hooks import let_compile_see_hooks
from nnunet_ssl.networks.net import set_deep_supervision
from nnunet_ssl.networks.taps import require_unet

STAGE, MOST_TOKENS = 3, 4096  # as in the paper, at an eighth of the resolution; there are 16^3 in a patch of 128^3


class SampleAttention(nn.Module):
    """Two layers of a transformer, in training only: later patches are predicted one by one.

    Features (B, F, *spatial) in, and out. The first layer lets the voxels of each patch attend to each other, the
    second the voxels at one place in all patches, of all ranks, which so have to be equally many on each.

    Args:
        features: F.
        dropout: probability, also of the attention's weights.

    Source: the cross-sample mutual attention of Gao et al., MICCAI 2023.
    """

    whole_batch = True  # see `Net`

    def __init__(self, features: int, dropout: float):
        super().__init__()
        heads = math.gcd(4, features)
        self.intra, self.inter = (
            nn.TransformerEncoderLayer(features, heads, 4 * features, dropout, batch_first=True) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        tokens = self.intra(x.flatten(2).transpose(1, 2))  # (B, voxels, F)
        among = self.inter(world_of_batches(tokens).transpose(0, 1)).transpose(0, 1)
        among = among[rank() * len(x) :][: len(x)]
        return among.transpose(1, 2).unflatten(2, x.shape[2:]).to(x.dtype)


def with_sample_attention(architecture: Architecture, patch_size: Sequence[int], dropout: float) -> nn.Module:
    """The plan's network with `SampleAttention` in its encoder and a decoder that goes up by linear interpolation.

    The attention follows the fourth stage, or a lower one with no more than 4096 voxels. In networks of few stages it
    precedes the last. The encoder's weights keep their names.

    Raises:
        NotImplementedError: it is no U-Net of nnU-Net's plans.
    """
    network: Any = require_unet(architecture())
    network.decoder = further_decoder(network, "linear", scales=True)
    set_deep_supervision(network, architecture.deep_supervision)
    encoder = network.encoder
    place = _place(encoder.strides, patch_size)
    network.attention = attention = SampleAttention(encoder.output_channels[place], dropout)

    def after(stage: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        return attention(out)

    encoder.stages[place].register_forward_hook(after)
    let_compile_see_hooks()
    return network


def _place(strides: Sequence[Any], patch_size: Sequence[int]) -> int:
    """The stage, from 0, that attention follows."""
    size, last = torch.tensor(patch_size), len(strides) - 1
    for stage, stride in enumerate(strides):
        size = size // torch.tensor(stride)
        if stage >= min(STAGE, last - 1) and size.prod() <= MOST_TOKENS:
            return stage
    return last
