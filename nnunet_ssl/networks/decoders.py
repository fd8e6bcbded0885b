"""Further decoders that read the features of one encoder pass."""

from __future__ import annotations

from typing import Any

from torch import nn

from nnunet_ssl.networks.taps import require_unet

UPSAMPLINGS = ("transposed", "linear", "nearest")


def further_decoder(network: nn.Module, upsampling: str = "transposed", scales: bool = False) -> nn.Module:
    """The decoder of a new network by itself: a list of skips, full resolution first, to logits (B, C, *spatial).

    nnU-Net's decoder refers to its encoder without using it in a forward, which is left out, so that all parameters get
    a gradient.

    Args:
        network: a network of the plan's architecture that is not used otherwise.
        upsampling: "transposed" convolutions as planned; or "linear" or "nearest" interpolation by the plan's strides,
            behind a convolution of one voxel.
        scales: whether it returns the logits of all scales of deep supervision, as a list, full resolution first;
            otherwise it has no heads for the lower ones.

    Raises:
        NotImplementedError: the network is no U-Net of nnU-Net's plans.
        ValueError: there is no such upsampling.
    """
    decoder = require_unet(network).decoder
    if upsampling != "transposed":
        decoder.transpconvs = nn.ModuleList(_interpolation(each, upsampling) for each in decoder.transpconvs)
    del decoder.encoder
    decoder.deep_supervision = scales
    if not scales:
        decoder.seg_layers = decoder.seg_layers[-1:]
    return decoder


def _interpolation(transposed: Any, mode: str) -> nn.Sequential:
    """Another way up by the same factors, with as many channels; the convolution comes first, where voxels are few."""
    stride = tuple(transposed.stride)
    flat = len(stride) == 2
    if mode == "linear":
        up = nn.Upsample(scale_factor=stride, mode="bilinear" if flat else "trilinear", align_corners=True)
    elif mode == "nearest":
        up = nn.Upsample(scale_factor=stride, mode="nearest")
    else:
        raise ValueError(f"upsampling = {mode!r} must be one of {', '.join(UPSAMPLINGS)}")
    convolution = nn.Conv2d if flat else nn.Conv3d
    channels = transposed.in_channels, transposed.out_channels
    return nn.Sequential(convolution(*channels, 1, bias=transposed.bias is not None), up)
