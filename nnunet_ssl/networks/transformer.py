"""A vision transformer that segments, for patches of any size in 2D and 3D."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn


def token_sizes(patch_size: Sequence[int]) -> tuple[int, ...]:
    """Voxels of one token along each axis: the largest power of two up to 8 that divides the patch."""
    return tuple(math.gcd(8, size) for size in patch_size)


def transformer(
    input_channels: int,
    num_classes: int,
    patch_size: Sequence[int],
    token_size: Sequence[int],
    width: int,
    layers: int,
    heads: int,
    drop_path: float,
) -> nn.Module:
    """Primus (Wald et al., 2025) of dynamic-network-architectures with layer scale as in nnU-Net's Primus trainers.

    Maps (B, input_channels, *patch_size) to logits (B, num_classes, *patch_size), one output. In 2D it sees a volume of
    one slice, in tokens of one slice.

    Args:
        input_channels: of the image.
        num_classes: output channels.
        patch_size: the only size that it takes, since positions are learned.
        token_size: voxels of one token along each axis: powers of two that divide the patch, not all of them 1.
        width: features of a token; a multiple of 6 times `heads`, for the rotary embedding.
        layers: number of transformer blocks.
        heads: of the attention.
        drop_path: probability with which the last block is skipped in training; falls linearly to 0 at the first.
    """
    from dynamic_network_architectures.architectures.primus import Primus  # brings timm, which takes seconds to import

    flat = len(patch_size) == 2
    network = Primus(
        input_channels=input_channels,
        embed_dim=width,
        patch_embed_size=(1, *token_size) if flat else tuple(token_size),
        num_classes=num_classes,
        eva_depth=layers,
        eva_numheads=heads,
        input_shape=(1, *patch_size) if flat else tuple(patch_size),
        drop_path_rate=drop_path,
        init_values=0.1,
        scale_attn_inner=True,
    )
    return OneSlice(network) if flat else network


class OneSlice(nn.Module):
    """A 3D network that takes images (B, channels, H, W) as volumes of one slice."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, C, H, W)."""
        return self.network(image[:, :, None])[:, :, 0]
