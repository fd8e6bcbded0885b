"""Distances between two predictions of the same voxels."""

from torch import Tensor

from nnunet_ssl.distributed import mean_over_ranks


def masked_mse(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared difference over the voxels that a mask admits; 0 with zero gradient for an empty mask.

    sum(mask (student - teacher)^2) / (sum(mask) + 1e-16), sums over samples, channels and voxels.

    Args:
        student: probabilities (B, C, *spatial), float32.
        teacher: probabilities (B, C, *spatial), float32, without gradient.
        mask: (B, 1, *spatial) for classes, which counts each admitted voxel C times, or (B, C, *spatial) for regions.

    Source: Yu et al., "Uncertainty-aware Self-ensembling Model", MICCAI 2019, eq. 4. Their code divides by 2 whatever
    the number of classes; we divide by C, which is the same for their two classes.
    """
    mask = mask.expand_as(student).float()
    return (mask * (student - teacher).square()).sum() / (mean_over_ranks(mask.sum()) + 1e-16)
