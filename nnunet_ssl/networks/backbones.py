"""Other networks behind the constructor that nnU-Net's plans call, all with one output: other libraries' and ENet.

nnU-Net builds `cls(input_channels=, num_classes=, deep_supervision=, **arch_kwargs)`. Sizes are stated here or in the
plans and never left to a library's defaults, which change between versions and would part checkpoints from networks.
None of these networks has scales of deep supervision, encoder stages or a decoder by nnU-Net's names: methods that need
them refuse at set-up. MONAI is imported only when one of its networks is built.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from nnunet_ssl.errors import InputError
from nnunet_ssl.networks.enet import ENetModule
from nnunet_ssl.networks.transformer import transformer


class Backbone(nn.Module):
    """A network with one output, at full resolution.

    Args:
        network: maps (B, channels, *spatial) to logits (B, C, *spatial).
        deep_supervision: what nnU-Net passes.

    Raises:
        InputError: deep supervision is asked for, as nnU-Net's stock trainer does.
    """

    def __init__(self, network: nn.Module, deep_supervision: bool):
        super().__init__()
        if deep_supervision:
            raise InputError(
                f"{type(self).__name__} has no deep supervision, which nnU-Net's stock trainers ask for: "
                "train it with nnUNetTrainerSupervised or a semi-supervised trainer."
            )
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, C, *spatial) of an image (B, channels, *spatial)."""
        return self.network(image)


class VNet(Backbone):
    """V-Net; Milletari et al., 3DV 2016; MONAI's, in 2D or 3D.

    Five levels of 16 to 256 features, 5-voxel kernels; spatial axes must be multiples of 16 and 16 a multiple of the
    input channels. Batch norm, and dropout of whole channels (0.5) in the skip connections and around the bottleneck,
    are MONAI's; the paper has neither.
    """

    def __init__(self, input_channels: int, num_classes: int, dimensions: int, deep_supervision: bool = False):
        network = monai_network("VNet")(
            spatial_dims=dimensions,
            in_channels=input_channels,
            out_channels=num_classes,
            act=("elu", {"inplace": True}),
            dropout_prob_down=0.5,
            dropout_prob_up=(0.5, 0.5),
        )
        if dimensions == 2:  # MONAI puts Dropout3d here too, which takes (B, C, H, W) for one image and drops of the B
            for module in list(network.modules()):
                for name, child in module.named_children():
                    if isinstance(child, nn.Dropout3d):
                        setattr(module, name, nn.Dropout2d(child.p))
        super().__init__(network, deep_supervision)


class AttentionUNet(Backbone):
    """Attention U-Net; Oktay et al., MIDL 2018; MONAI's, in 2D or 3D, with batch norm, which MONAI fixes.

    Args:
        features: features of each level, full resolution first; the plan's `features_per_stage`.
        downsampling: factor per axis from each level to the next, one entry less; the plan's `strides` after the first.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        features: Sequence[int],
        downsampling: Sequence[Sequence[int]],
        deep_supervision: bool = False,
    ):
        network = monai_network("AttentionUnet")(
            spatial_dims=len(downsampling[0]),
            in_channels=input_channels,
            out_channels=num_classes,
            channels=tuple(features),
            strides=[tuple(factors) for factors in downsampling],
            kernel_size=3,
            up_kernel_size=3,
            dropout=0.0,
        )
        super().__init__(network, deep_supervision)


class SegResNet(Backbone):
    """Residual encoder with a light decoder; Myronenko, BrainLes 2018, without the autoencoder; MONAI's, in 2D or 3D.

    Four levels of 1, 2, 2 and 4 residual blocks, features doubling; spatial axes must be multiples of 8. Group norm.

    Args:
        features: features at full resolution; the plan's first.
        groups: groups of the norm; must divide `features`.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        dimensions: int,
        features: int,
        groups: int,
        deep_supervision: bool = False,
    ):
        network = monai_network("SegResNet")(
            spatial_dims=dimensions,
            init_filters=features,
            in_channels=input_channels,
            out_channels=num_classes,
            act=("relu", {"inplace": True}),
            norm=("group", {"num_groups": groups}),
            blocks_down=(1, 2, 2, 4),
            blocks_up=(1, 1, 1),
            upsample_mode="nontrainable",  # linear, as in the paper
        )
        super().__init__(network, deep_supervision)


class UNETR(Backbone):
    """Vision transformer (12 layers of 768 features) with a convolutional decoder; Hatamizadeh et al., WACV 2022.

    MONAI's, in 2D or 3D, with instance norm; spatial axes must be multiples of 16.

    Args:
        patch_size: the plan's patch; positions are learned, so the network takes no other.
    """

    def __init__(
        self, input_channels: int, num_classes: int, patch_size: Sequence[int], deep_supervision: bool = False
    ):
        network = monai_network("UNETR")(
            spatial_dims=len(patch_size),
            in_channels=input_channels,
            out_channels=num_classes,
            img_size=tuple(patch_size),
            feature_size=16,
            hidden_size=768,
            mlp_dim=3072,
            num_heads=12,
            norm_name="instance",
        )
        vit: Any = network.vit
        for block in vit.blocks:  # never called, and DDP refuses parameters that get no gradient
            block.norm_cross_attn = nn.Identity()
        super().__init__(network, deep_supervision)


class SwinUNETR(Backbone):
    """Swin transformer (windows of 7, 48 features) with a convolutional decoder; Hatamizadeh et al., BrainLes 2021.

    MONAI's, in 2D or 3D, with instance norm; spatial axes must be multiples of 32, not all of them 32.
    """

    def __init__(self, input_channels: int, num_classes: int, dimensions: int, deep_supervision: bool = False):
        network = monai_network("SwinUNETR")(
            spatial_dims=dimensions,
            in_channels=input_channels,
            out_channels=num_classes,
            depths=(2, 2, 2, 2),
            num_heads=(3, 6, 12, 24),
            window_size=7,
            feature_size=48,
            norm_name="instance",
        )
        super().__init__(network, deep_supervision)


class Primus(Backbone):
    """Vision transformer with a light decoder; Wald et al., 2025; of dynamic-network-architectures, 3D only.

    Drop path and layer scale are those of nnU-Net's own Primus trainers.

    Args:
        patch_size: the plan's patch; positions are learned, so the network takes no other.
        token_size: voxels of one token per axis: 8 in the paper; powers of two up to 8 that divide the patch.
        embed_dim, depth, heads: 396, 12, 6 in size S; 792, 12, 12 in B; 864, 16, 12 in M; 1056, 24, 16 in L.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        patch_size: Sequence[int],
        token_size: Sequence[int],
        embed_dim: int,
        depth: int,
        heads: int,
        deep_supervision: bool = False,
    ):
        drop_path = 0.2
        network = transformer(input_channels, num_classes, patch_size, token_size, embed_dim, depth, heads, drop_path)
        super().__init__(network, deep_supervision)


class ENet(Backbone):
    """ENet; Paszke et al., 2016; our own, in 2D or 3D, with batch norm.

    Fixed sizes; spatial axes must be multiples of 8, and there are fewer than 16 input channels.
    """

    def __init__(self, input_channels: int, num_classes: int, dimensions: int, deep_supervision: bool = False):
        super().__init__(ENetModule(input_channels, num_classes, dimensions), deep_supervision)


def monai_network(name: str) -> type[nn.Module]:
    """A class of `monai.networks.nets`.

    Raises:
        InputError: MONAI is not installed.
    """
    try:
        return getattr(importlib.import_module("monai.networks.nets"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "monai":
            raise
        raise InputError(f'{name} is MONAI\'s, which is not installed: pip install "nnunet-ssl[networks]"') from None
