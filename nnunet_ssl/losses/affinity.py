"""Distance of what labeled and unlabeled patches have for features of each class."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, autocast
from torch.utils.checkpoint import checkpoint

from nnunet_ssl.distributed import sum_over_ranks
from nnunet_ssl.kinds import nearest
from nnunet_ssl.task import Target

_EPS = 1e-6  # voxels, in the denominator


class Pooled(NamedTuple):
    """Features summed over the voxels of each class, in float32.

    Attributes:
        sums: (B, K, features).
        voxels: how many there are, (B, K).
    """

    sums: Tensor
    voxels: Tensor


def pooled(features: Tensor, masks: Tensor) -> Pooled:
    """Sums over the voxels, of features (B, features, *spatial) and bool or soft masks (B, K, *spatial).

    Gradients reach both. Sums of a million voxels are beyond float16. The copies in float32 are made again in the
    backward pass and not kept.
    """
    keep: Any = {"use_reentrant": False, "preserve_rng_state": False}
    return Pooled(*checkpoint(_pooled, features, masks, **keep))


def _pooled(features: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    with autocast(features.device.type, enabled=False):
        features, masks = (each.flatten(2).float() for each in (features, masks))
        return torch.einsum("bcv,bkv->bkc", features, masks), masks.sum(2)


def class_masks(target: Target, size: torch.Size) -> Tensor:
    """The annotated voxels of each class or region at a resolution, bool (B, C, *spatial)."""
    masks = target.kind.masks(target.kind.nearest(target.labels, size))
    return masks if target.annotated is None else masks & nearest(target.annotated[:, None], size)


def affinity_distance(labeled: Pooled, unlabeled: Pooled, by_pair: bool = True, present_only: bool = True) -> Tensor:
    """Mean over classes, patches and features of (r_u - r_l)^2, of vectors r of each class.

    Args:
        labeled: sums of the labeled patches.
        unlabeled: those of the unlabeled patches.
        by_pair: r of each patch is its sum over the voxels of all patches of its kind, and patches with and without
            labels are paired in their order; of the smaller number of patches the first come again. Otherwise r is the
            mean feature of a class over all patches of its kind, of all ranks either way.
        present_only: the mean is over the classes that the labeled patches have; 0 if there is none.
    """
    pairs = max(len(labeled.voxels), len(unlabeled.voxels)) if by_pair else None
    distance = (_vectors(unlabeled, pairs) - _vectors(labeled, pairs)).square().mean((0, 2))
    if not present_only:
        return distance.mean()
    present = sum_over_ranks(labeled.voxels.detach().sum(0)) >= 1
    return torch.where(present, distance, 0).sum() / present.sum().clamp_min(1)


def _vectors(patches: Pooled, pairs: int | None) -> Tensor:
    """r, (pairs, K, features), or (1, K, features) of all patches together."""
    sums, voxels = patches
    if pairs is None:
        sums = sum_over_ranks(sums.sum(0, keepdim=True))
    elif pairs > len(sums):
        order = torch.arange(pairs, device=sums.device) % len(sums)
        sums, voxels = sums[order], voxels[order]
    return sums / (sum_over_ranks(voxels.sum(0)) + _EPS)[:, None]
