"""ENet: early and remembered downsampling, a long encoder of bottlenecks and a short decoder, in 2D or 3D.

A. Paszke, A. Chaurasia, S. Kim, E. Culurciello: ENet: A Deep Neural Network Architecture for Real-Time Semantic
Segmentation. arXiv 1606.02147, 2016.

A convolution has a bias only where no norm follows it. In 3D, each kernel has one axis more: 3 x 3 becomes 3 x 3 x 3,
and the asymmetric 5 x 5 becomes 5 x 1 x 1, 1 x 5 x 1 and 1 x 1 x 5.

In 3D do not train it in bfloat16 on the CPU, where nnU-Net trains in float32. Seen with PyTorch 2.14 and AVX-512:
oneDNN's gradient of a weight with k voxels along the first axis reads memory that nobody wrote, if the feature maps
have 2 to k - 1 voxels there, and 16 channels or more. ENet has kernels of 5 x 1 x 1, and such maps at an eighth of the
resolution. The gradient of this weight must lie between 8 and 16, as it does in float32; some of it is 1e38:

    w = torch.zeros(16, 16, 3, 1, 1, dtype=torch.bfloat16, requires_grad=True)
    torch.conv3d(torch.ones(2, 16, 2, 2, 2, dtype=torch.bfloat16), w, padding=(1, 0, 0)).sum().backward()
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

WIDTHS = (16, 64, 128)  # features at 1/2, 1/4 and 1/8 of the resolution
DILATIONS = (1, 2, 0, 4, 1, 8, 0, 16)  # of the bottlenecks of stages 2 and 3; 0: an asymmetric one


@dataclass(frozen=True)
class Kit:
    """The layers of 2D or 3D."""

    dimensions: int

    def layer(self, name: str, *args: Any, **kwargs: Any) -> nn.Module:
        """A layer of torch, such as `Conv` for `nn.Conv3d`."""
        return getattr(nn, f"{name}{self.dimensions}d")(*args, **kwargs)

    def conv(self, before: int, features: int, kernel: int, name: str = "Conv", **kwargs: Any) -> nn.Sequential:
        """A convolution without bias and the norm behind it."""
        convolution = self.layer(name, before, features, kernel, bias=False, **kwargs)
        return nn.Sequential(convolution, self.layer("BatchNorm", features))

    def asymmetric(self, features: int, activation: str) -> list[nn.Module]:
        """Kernels of 5 voxels along one axis after the other."""
        layers: list[nn.Module] = []
        for axis in range(self.dimensions):
            kernel = [5 if axis == other else 1 for other in range(self.dimensions)]
            padding = [size // 2 for size in kernel]
            convolution = self.layer("Conv", features, features, kernel, padding=padding, bias=False)
            layers += [convolution, self.layer("BatchNorm", features), activate(activation, features)]
        return layers


def activate(name: str, features: int) -> nn.Module:
    """PReLU with a slope for each feature map, or ReLU."""
    return nn.PReLU(features) if name == "prelu" else nn.ReLU(inplace=True)


class Initial(nn.Module):
    """A convolution of stride 2 beside max pooling of the image, one behind the other; at half the resolution."""

    def __init__(self, kit: Kit, channels: int):
        super().__init__()
        self.conv = kit.layer("Conv", channels, WIDTHS[0] - channels, 3, stride=2, padding=1, bias=False)
        self.pool = kit.layer("MaxPool", 2)
        self.norm = kit.layer("BatchNorm", WIDTHS[0])
        self.activation = activate("prelu", WIDTHS[0])

    def forward(self, image: Tensor) -> Tensor:
        return self.activation(self.norm(torch.cat([self.conv(image), self.pool(image)], dim=1)))


class Bottleneck(nn.Module):
    """A projection to a quarter of the features, a convolution, an expansion; dropout; added to what came in.

    Args:
        dilation: of the convolution; 0 for the asymmetric one.
        dropout: probability that a feature map of the branch is dropped.
        scale: "down" and "up" change the resolution by 2 in the projection and in the convolution.
    """

    def __init__(
        self, kit: Kit, before: int, features: int, dropout: float, activation: str, dilation: int = 1, scale: str = ""
    ):
        super().__init__()
        inner = features // 4
        step = 2 if scale == "down" else 1
        if scale == "up":
            middle = [
                kit.conv(inner, inner, 3, "ConvTranspose", stride=2, padding=1, output_padding=1),
                activate(activation, inner),
            ]
        elif dilation:
            middle = [
                kit.conv(inner, inner, 3, padding=dilation, dilation=dilation),
                activate(activation, inner),
            ]
        else:
            middle = kit.asymmetric(inner, activation)
        self.branch = nn.Sequential(
            kit.conv(before, inner, step, stride=step),
            activate(activation, inner),
            *middle,
            kit.conv(inner, features, 1),
            kit.layer("Dropout", dropout),
        )
        self.activation = activate(activation, features)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(x + self.branch(x))


class Down(Bottleneck):
    """The other way is max pooling, filled up with empty feature maps."""

    def __init__(self, kit: Kit, before: int, features: int, dropout: float):
        super().__init__(kit, before, features, dropout, "prelu", scale="down")
        self.pool = kit.layer("MaxPool", 2, return_indices=True)
        self.added = features - before

    def forward_and_remember(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Half the resolution, and where in `x` each maximum stood, (B, before, *spatial) as indices of flat maps."""
        pooled, places = self.pool(x)
        empty = pooled.new_zeros(pooled.shape[0], self.added, *pooled.shape[2:])
        return self.activation(torch.cat([pooled, empty], dim=1) + self.branch(x)), places


class Up(Bottleneck):
    """The other way is a projection and max unpooling to the places that `Down` remembered."""

    def __init__(self, kit: Kit, before: int, features: int, dropout: float):
        super().__init__(kit, before, features, dropout, "relu", scale="up")
        self.main = kit.conv(before, features, 1)

    def forward_to(self, x: Tensor, places: Tensor) -> Tensor:
        """Twice the resolution."""
        branch = self.branch(x)
        return self.activation(unpool(self.main(x), places, branch) + branch)


def unpool(x: Tensor, places: Tensor, like: Tensor) -> Tensor:
    """Zeros of the shape of `like` (B, C, *spatial) with `x` at its places.

    Not torch's max unpooling, which CUDA refuses where algorithms must be deterministic: pools do not overlap.
    """
    empty = x.new_zeros(like.shape).flatten(2)
    return empty.scatter(2, places.flatten(2), x.flatten(2)).view(like.shape)


class ENetModule(nn.Module):
    """Image (B, channels, *spatial) to logits (B, C, *spatial); spatial axes must be multiples of 8."""

    def __init__(self, channels: int, classes: int, dimensions: int):
        super().__init__()
        kit, (first, second, third) = Kit(dimensions), WIDTHS
        self.initial = Initial(kit, channels)
        self.down1 = Down(kit, first, second, 0.01)
        self.stage1 = nn.Sequential(*[Bottleneck(kit, second, second, 0.01, "prelu") for _ in range(4)])
        self.down2 = Down(kit, second, third, 0.1)
        self.stage2, self.stage3 = (
            nn.Sequential(*[Bottleneck(kit, third, third, 0.1, "prelu", dilation) for dilation in DILATIONS])
            for _ in range(2)
        )
        self.up4 = Up(kit, third, second, 0.1)
        self.stage4 = nn.Sequential(*[Bottleneck(kit, second, second, 0.1, "relu") for _ in range(2)])
        self.up5 = Up(kit, second, first, 0.1)
        self.stage5 = Bottleneck(kit, first, first, 0.1, "relu")
        self.head = kit.layer("ConvTranspose", first, classes, 3, stride=2, padding=1, output_padding=1)

    def forward(self, image: Tensor) -> Tensor:
        x, places1 = self.down1.forward_and_remember(self.initial(image))
        x, places2 = self.down2.forward_and_remember(self.stage1(x))
        x = self.stage3(self.stage2(x))
        x = self.stage4(self.up4.forward_to(x, places2))
        return self.head(self.stage5(self.up5.forward_to(x, places1)))
