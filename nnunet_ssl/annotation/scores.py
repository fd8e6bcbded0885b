"""What a prediction of a case says of its worth for annotation, and how the cases of a pool lie to each other.

Instability and entropy are those of Zhang et al., "BoostMIS", CVPR 2022, carried over from images to voxels: the unit
of both is nats. Voxels count as unsure below a confidence of `SURE`, the paper's threshold at the end of a training.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.spatial.distance import cdist
from torch import Tensor

from nnunet_ssl.kinds import Kind
from nnunet_ssl.losses.divergence import kl
from nnunet_ssl.networks.net import Output

SURE = 0.95  # alpha + beta of the paper
XI, EPSILON = 10.0, 1.0  # lengths of the probe and of the push, in units of the head's features
NEIGHBORS = 10  # of the density
BLOCK = 2**22  # similarities that are held at a time


@dataclass(frozen=True)
class ClassScores:
    """Of one foreground class or region in a case.

    Attributes:
        voxels: that are predicted as it, on the training grid.
        unsure: share of them whose confidence is at most `SURE`.
        entropy: mean over these unsure ones, 0 without any.
    """

    voxels: int
    unsure: float
    entropy: float


@dataclass(frozen=True)
class CaseScores:
    """Of one case; None where the network or the number of passes does not allow a score.

    Attributes:
        instability: KL between the prediction and that after a push at the head, summed over unsure voxels, over all.
        mutual_information: of folds, or of mirrored passes; mean over voxels that are foreground or unsure.
        by_class: the foreground.
        descriptor: mean bottleneck features, of length 1 for each fold; 8 bytes each, as a pool has many.
        density: mean cosine similarity to the nearest other cases of the pool.
        distance: Euclidean, of the descriptor to that of the nearest labeled case.
        random: in [0, 1), the control.
    """

    case: str
    instability: float | None
    mutual_information: float | None
    by_class: dict[str, ClassScores]
    descriptor: array[float] | None
    density: float | None = None
    distance: float | None = None
    random: float = 0.0

    @property
    def entropy(self) -> float:
        """Mean over the foreground classes that the case has; 0 if the model finds none."""
        present = [scores.entropy for scores in self.by_class.values() if scores.voxels]
        return float(np.mean(present)) if present else 0.0

    def as_dict(self) -> dict[str, Any]:
        """For `suggested.json`, without the descriptor."""
        names = ("instability", "entropy", "density", "mutual_information", "distance", "random")
        classes = {name: vars(scores) for name, scores in self.by_class.items()}
        return {name: getattr(self, name) for name in names} | {"by_class": classes}


def directions(weight: Tensor, patch: Sequence[int], seed: int = 0) -> Tensor:
    """What a random unit vector at each voxel of the features that the head reads does to the logits.

    The features themselves are not needed: a push reaches the prediction through the head alone.

    Args:
        weight: W of the head, (C, features).
        patch: voxels along each axis.

    Returns:
        W d, (1, C, *patch), float32 on the CPU.
    """
    generator = torch.Generator().manual_seed(seed)
    weight = weight.detach().float().cpu()
    moved = torch.empty(len(weight), *patch)
    for index in range(patch[0]):  # all at once would be as large as the features
        d = torch.rand(weight.shape[1], *patch[1:], generator=generator) - 0.5
        d /= d.norm(dim=0).clamp_min(1e-8)
        moved[:, index] = torch.einsum("cf,f...->c...", weight, d)
    return moved[None]


def instability(logits: Tensor, kind: Kind, gram: Tensor, probe: Tensor) -> Tensor:
    """KL between the prediction and that after the push at the head which changes it most, (B, 1, *spatial) in nats.

    The push is one step of the power method at each voxel: the gradient of the KL at the probe, W^T (q - p), of length
    `EPSILON`. Seen from the logits it is W W^T (q - p), so that nothing but these is computed. Summed over regions.

    Args:
        logits: (B, C, *spatial).
        gram: W W^T of the head, (C, C).
        probe: W d of `directions`, (1, C, *spatial).
    """
    logits = logits.float()
    error = kind.probs(logits + XI * probe) - kind.probs(logits)
    push = torch.einsum("cd,bd...->bc...", gram, error)
    length = (error * push).sum(1, keepdim=True).clamp_min(0).sqrt()
    pushed = logits + EPSILON * push / length.clamp_min(1e-12)
    divergence = kl(Output([logits], kind), Output([pushed], kind))
    return kind.as_channels(divergence).sum(1, keepdim=True).clamp_min(0)


class Disagreement:
    """Mutual information between the prediction and which of several passes made it, voxel by voxel.

    Entropy of the mean minus the mean entropy: 0 where all passes say the same, however unsure they are.

    Args:
        device: where the sums lie.
    """

    def __init__(self, kind: Kind, device: torch.device):
        self.kind = kind
        self.device = device
        self.passes = 0
        self.probs: Any = 0.0
        self.entropies: Any = 0.0

    def add(self, logits: Tensor) -> None:
        """A pass, (B, C, *spatial)."""
        probs = self.kind.probs(logits)
        self.entropies = self.entropies + self.kind.entropy(probs).sum(1, keepdim=True).to(self.device)
        self.probs = self.probs + probs.to(self.device)
        self.passes += 1

    def result(self) -> Tensor:
        """(B, 1, *spatial) in nats, summed over regions."""
        of_mean = self.kind.entropy(self.probs / self.passes).sum(1, keepdim=True)
        return (of_mean - self.entropies / self.passes).clamp_min(0)


class Tally:
    """Sums over a case that is handed in slab by slab.

    Args:
        names: of the foreground channels.
    """

    def __init__(self, kind: Kind, names: Sequence[str]):
        self.kind = kind
        self.names = names
        self.voxels = self.matter = 0
        self.instability = self.mutual_information = 0.0
        self.predicted, self.unsure, self.entropy = (torch.zeros(len(names), dtype=torch.float64) for _ in range(3))

    def add(self, logits: Tensor, instability: Tensor | None, mutual_information: Tensor | None) -> Tensor:
        """A slab (1, C, *spatial) with its maps (1, 1, *spatial).

        Returns:
            the entropy over the largest possible one, 0..1, (*spatial); of regions the largest.
        """
        kind = self.kind
        entropy = kind.entropy_of_logits(logits)
        masks = kind.masks(kind.hard(logits), first=kind.background)
        unsure = kind.as_channels(kind.confidence(kind.probs(logits)) <= SURE)
        doubted, anywhere = masks & unsure, unsure.any(1, keepdim=True)
        over = (0, *range(2, logits.ndim))
        self.predicted += masks.sum(over).cpu()
        self.unsure += doubted.sum(over).cpu()
        self.entropy += (entropy * doubted).sum(over, dtype=torch.float64).cpu()
        self.voxels += anywhere.numel()
        if instability is not None:
            self.instability += float((instability * anywhere).sum(dtype=torch.float64))
        if mutual_information is not None:
            matter = masks.any(1, keepdim=True) | anywhere
            self.matter += int(matter.sum())
            self.mutual_information += float((mutual_information * matter).sum(dtype=torch.float64))
        return entropy.amax(1)[0] / kind.max_entropy

    def scores(self, case: str, has: tuple[bool, bool], descriptor: np.ndarray | None) -> CaseScores:
        """Of the case that was handed in; `has` says whether there were maps of both kinds."""
        counts = zip(self.predicted.tolist(), self.unsure.tolist(), self.entropy.tolist(), strict=True)
        by_class = {
            name: ClassScores(int(voxels), unsure / max(voxels, 1), entropy / max(unsure, 1))
            for name, (voxels, unsure, entropy) in zip(self.names, counts, strict=True)
        }
        return CaseScores(
            case,
            self.instability / self.voxels if has[0] else None,
            self.mutual_information / max(self.matter, 1) if has[1] else None,
            by_class,
            None if descriptor is None else array("d", descriptor),
        )


def within_pool(pool: Sequence[CaseScores], labeled: np.ndarray | None, randoms: Sequence[float]) -> list[CaseScores]:
    """The same with density, distance and random.

    Args:
        labeled: descriptors of the labeled cases, (cases, features); None where there are no descriptors.
    """
    pool = [replace(scores, random=value) for scores, value in zip(pool, randoms, strict=True)]
    if labeled is None:
        return pool
    descriptors = np.array([scores.descriptor for scores in pool])
    nearest = distances(descriptors, labeled).min(1)
    both = zip(pool, densities(descriptors), nearest, strict=True)
    return [replace(scores, density=float(dense), distance=float(far)) for scores, dense, far in both]


def densities(descriptors: np.ndarray, neighbors: int = NEIGHBORS) -> np.ndarray:
    """Mean cosine similarity of each to its most similar others, in 0..1; 1 for a pool of one.

    Args:
        descriptors: (cases, features).
    """
    if len(descriptors) == 1:
        return np.ones(1)
    unit = descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True).clip(1e-12)
    number, rows = min(neighbors, len(unit) - 1), max(1, BLOCK // len(unit))
    means = []
    for start in range(0, len(unit), rows):  # all at once would take the square of the pool's size
        similarity = unit[start : start + rows] @ unit.T
        own = np.arange(len(similarity))
        similarity[own, start + own] = -np.inf
        largest = np.partition(similarity, -number, axis=1)[:, -number:]
        means.append(np.sort(largest, axis=1)[:, ::-1].mean(1))
    return np.concatenate(means).clip(0, 1)


def distances(descriptors: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Euclidean, (cases, others)."""
    return cdist(descriptors, others)
