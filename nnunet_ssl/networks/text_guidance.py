"""The plan's U-Net, whose deepest features are fused with a map that prompts of the classes make."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, autocast, nn
from torch.nn import functional as F

from nnunet_ssl.networks.architecture import Architecture
from nnunet_ssl.networks.taps import require_unet
from nnunet_ssl.networks.text_embeddings import WIDTH, without_language


class Prompts(nn.Module):
    """W (t + E): what is said of each class at each place of a grid, (classes, places).

    Args:
        classes: or regions.
        places: of the grid.

    Attributes:
        text: t, embeddings of the classes' names, (classes, WIDTH); never trained, and saved with the weights.
    """

    text: Tensor

    def __init__(self, classes: int, places: int):
        super().__init__()
        self.register_buffer("text", without_language(classes))
        self.shift = nn.Parameter(0.01 * torch.randn(classes, WIDTH))  # E
        self.adapter = nn.Linear(WIDTH, places, bias=False)  # W

    def forward(self) -> Tensor:
        return self.adapter(self.text + self.shift)


class TextVisionFusion(nn.Module):
    """A map made of prompts is mixed into features v, behind a gate that both open.

        c = leaky(LayerNorm(linear(prompts)))                         a vector for each place of the grid
        g = sigmoid(norm(b(leaky(norm(a(v)) + norm(a(c))))))          one factor for each place
        g leaky(norm(m([v, c])))

    a, b and m are convolutions of one voxel; the norm is over the places of a patch, without weights.

    Args:
        classes: or regions.
        features: of v.
        grid: size of v along each axis.
        conv_op: the plan's kind of convolution.
    """

    def __init__(self, classes: int, features: int, grid: Sequence[int], conv_op: Any):
        super().__init__()
        self.grid = tuple(grid)
        self.spread = nn.Sequential(nn.Linear(classes, features), nn.LayerNorm(features), nn.LeakyReLU())
        self.a, self.b = conv_op(features, features, 1), conv_op(features, 1, 1)
        self.m = conv_op(2 * features, features, 1)

    def cube(self, prompts: Tensor) -> Tensor:
        """c of prompts (classes, places), (1, features, *grid)."""
        return self.spread(prompts.T).T.reshape(1, -1, *self.grid)

    def opened(self, v: Tensor, c: Tensor) -> Tensor:
        """g before the sigmoid, (B, 1, *grid)."""
        a = F.instance_norm(self.a(v)) + F.instance_norm(self.a(c))
        return F.instance_norm(self.b(F.leaky_relu(a)))

    def forward(self, v: Tensor, c: Tensor) -> Tensor:
        """Of v and c, both (B, features, *grid), in that shape."""
        mixed = F.leaky_relu(F.instance_norm(self.m(torch.cat((v, c), 1))))
        return self.opened(v, c).sigmoid() * mixed


class TextGuidance(nn.Module):
    """Prompts of the classes and their fusion with the deepest features, in float32.

    Attributes:
        taught: in training, the prompts learn from so many first patches of a batch; None for all.
    """

    whole_batch = True  # see `Net`

    def __init__(self, classes: int, features: int, grid: Sequence[int], conv_op: Any):
        super().__init__()
        self.prompts = Prompts(classes, math.prod(grid))
        self.fusion = TextVisionFusion(classes, features, grid, conv_op)
        self.taught: int | None = None

    def forward(self, deep: Tensor) -> Tensor:
        """The deepest features (B, features, *grid), guided."""
        with autocast(deep.device.type, enabled=False):
            return self.fusion(deep.float(), self.cubes(len(deep)))

    def cubes(self, patches: int) -> Tensor:
        """c for each patch, (B, features, *grid), with gradient for the prompts where they learn."""
        prompts = self.prompts()
        cube = self.fusion.cube(prompts)
        if not self.training or self.taught is None or self.taught >= patches:
            return cube.expand(patches, *cube.shape[1:])
        given = self.fusion.cube(prompts.detach())
        return torch.cat(
            (cube.expand(self.taught, *cube.shape[1:]), given.expand(patches - self.taught, *cube.shape[1:]))
        )


class TextGuidedUNet(nn.Module):
    """A U-Net of nnU-Net's plans with guidance between encoder and decoder; the plan's weights keep their names."""

    def __init__(self, unet: Any, guidance: TextGuidance):
        super().__init__()
        self.encoder, self.decoder, self.guidance = unet.encoder, unet.decoder, guidance

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        """Logits (B, C, *spatial), or a list of them over scales, full resolution first."""
        *skips, deep = self.encoder(image)
        return self.decoder([*skips, self.guidance(deep)])


def with_text_guidance(architecture: Architecture) -> nn.Module:
    """The plan's network, plain or with a residual encoder, with guidance by text for patches of the plan's size.

    Raises:
        NotImplementedError: it is no U-Net of nnU-Net's plans, or a trainer builds a network of its own, which would
            predict without guidance, or its deepest features are of a single voxel.
    """
    architecture.require_planned("is not guided")
    unet = require_unet(architecture())
    encoder = unet.encoder
    strides = zip(*encoder.strides, strict=True)
    grid = [-(-size // math.prod(along)) for size, along in zip(architecture.patch_size, strides, strict=True)]
    if math.prod(grid) == 1:
        raise NotImplementedError(
            f"The deepest features of a patch of {list(architecture.patch_size)} are a single voxel, which no text can "
            "guide; take plans with larger patches."
        )
    guidance = TextGuidance(architecture.output_channels, encoder.output_channels[-1], grid, encoder.conv_op)
    return TextGuidedUNet(unet, guidance)
