"""A network that tells predictions for labeled images from predictions for unlabeled ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

_FEATURES = (64, 128, 256, 512)
_SMALLEST = 4  # voxels that an axis keeps


class Discriminator(nn.Module):
    """Four convolutions over a prediction and its image, in 2D or 3D; reads patches of any size.

    Prediction and image have a stem each, and the stems are added. Convolutions halve the axes that have 4 or more
    voxels left afterwards (kernel 4, stride 2) and keep the others (kernel 3). LeakyReLU 0.2 follows each, dropout of
    whole channels all but the last; then the mean over voxels and one linear layer.

    Args:
        channels: of the prediction.
        image_channels: of the image.
        patch_size: voxels along each axis of the patches to expect.
        dropout: probability with which a channel is dropped in training.

    Source: the evaluation network of Zhang et al., MICCAI 2017, in the form of SSL4MIS (in 3D; its 2D form has neither
    activation nor dropout after the stems), where a mean over a fixed number of voxels ties it to one patch size.
    """

    def __init__(self, channels: int, image_channels: int, patch_size: Sequence[int], dropout: float):
        super().__init__()
        conv, drop = {2: (nn.Conv2d, nn.Dropout2d), 3: (nn.Conv3d, nn.Dropout3d)}[len(patch_size)]
        first, *others = _halvings(patch_size)
        self.prediction_stem = conv(channels, _FEATURES[0], **first)
        self.image_stem = conv(image_channels, _FEATURES[0], **first)
        layers: list[nn.Module] = []
        for before, after, halving in zip(_FEATURES, _FEATURES[1:], others, strict=False):
            layers += [nn.LeakyReLU(0.2, inplace=True), drop(dropout), conv(before, after, **halving)]
        self.layers = nn.Sequential(*layers, nn.LeakyReLU(0.2, inplace=True))
        self.head = nn.Linear(_FEATURES[-1], 2)

    def forward(self, probs: Tensor, image: Tensor) -> Tensor:
        """Logits (B, 2) of probabilities (B, channels, *spatial) and images (B, image_channels, *spatial)."""
        features = self.layers(self.prediction_stem(probs) + self.image_stem(image))
        return self.head(features.flatten(2).mean(2))


def _halvings(patch_size: Sequence[int]) -> list[dict[str, Any]]:
    """Kernel, stride and padding of each convolution."""
    sizes, found = list(patch_size), []
    for _ in _FEATURES:
        halved = [size // 2 >= _SMALLEST for size in sizes]
        sizes = [size // 2 if half else size for size, half in zip(sizes, halved, strict=True)]
        found.append({"kernel_size": [4 if half else 3 for half in halved], "stride": [1 + half for half in halved]})
    return [convolution | {"padding": 1} for convolution in found]
