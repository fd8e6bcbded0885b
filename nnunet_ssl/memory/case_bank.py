"""Feature vectors of each labeled case and class, as buffers, drawn as if all voxels that they stand for were kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_ssl.distributed import gathered
from nnunet_ssl.errors import InputError


class CaseBank(nn.Module):
    """Keeps at most `size` vectors of each case and class, and how many voxels they stand for; alike on all ranks.

    It takes cases * classes * size * features numbers: 32 KiB for each class of a case with 256 vectors of 32 features.

    Args:
        cases: ids.
        classes: E.
        size: K, largest number of vectors of a class in a case, and how many are drawn of a class.
        features: D, length of a vector.

    Attributes:
        vectors: (cases, E, K, D); those from the number of voxels on are without meaning.
        count: how many voxels of a class the case has had, (cases, E).
    """

    vectors: Tensor
    count: Tensor

    def __init__(self, cases: Sequence[str], classes: int, size: int, features: int):
        super().__init__()
        self.numbers = {case: number for number, case in enumerate(cases)}
        self.register_buffer("vectors", torch.zeros(len(cases), classes, size, features))
        self.register_buffer("count", torch.zeros(len(cases), classes, dtype=torch.long))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        kept, cases = len(state_dict.get(f"{prefix}count", self.count)), len(self.count)
        if kept != cases:
            raise InputError(
                f"The memory in this checkpoint is of {kept} labeled cases, and the fold has {cases}: train anew, from "
                "these weights with -pretrained_weights if you like."
            )
        super()._load_from_state_dict(state_dict, prefix, *others)

    @torch.no_grad()
    def update(self, cases: Sequence[str], vectors: Tensor, count: Tensor) -> None:
        """Replaces all that is kept of cases, those of all ranks; of two patches of a case the last one counts.

        What a step that overflowed gives is not taken.

        Args:
            cases: ids of B patches.
            vectors: (B, E, K, D); of a class with fewer voxels than K the first ones count.
            count: voxels that they are a sample of, (B, E).
        """
        numbers = torch.tensor([self.numbers[case] for case in cases]).to(vectors.device, non_blocking=True)
        sound = vectors.isfinite().flatten(1).all(1)
        patches = (gathered(each).flatten(0, 1).split(1) for each in (numbers, sound, vectors, count))
        for number, valid, *new in zip(*patches, strict=True):
            for kept, value in zip((self.vectors, self.count), new, strict=True):
                valid = valid.view(1, *[1] * (kept.ndim - 1))
                kept.index_copy_(0, number, torch.where(valid, value.to(kept), kept.index_select(0, number)))

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """K vectors of each class, (E, K, D), without replacement out of all voxels of all cases; which classes have K.

        Every voxel gets a random number, and those with the K lowest are drawn. Of n voxels of a case only the lowest K
        can be among these: they are sums of exponential spacings (Rényi, 1953), given to its vectors in random order.

        Args:
            generator: on the CPU, in the same state on all ranks.
        """
        size, device = self.vectors.shape[2], self.vectors.device
        shape = self.vectors.shape[:3]
        spacing = torch.empty(shape).exponential_(generator=generator).to(device, non_blocking=True)
        order = torch.rand(shape, generator=generator).to(device, non_blocking=True)
        slot, n = torch.arange(size, device=device), self.count[:, :, None]
        lowest = (spacing.double() / (n - slot).clamp_min(1)).cumsum(2)
        lowest = torch.where(slot < n, lowest, torch.inf).transpose(0, 1).flatten(1)
        order = (order + (slot >= n)).argsort(2).transpose(0, 1).flatten(1)
        drawn = lowest.topk(size, largest=False)[1]
        classes = torch.arange(shape[1], device=device)[:, None]
        return self.vectors[drawn // size, classes, order.gather(1, drawn)], self.count.sum(0) >= size


def spread(masks: Tensor, most: int, offset: float) -> tuple[Tensor, Tensor]:
    """At most so many voxels of each class, at equal distances among them, so that ranks and a single process agree.

    Args:
        masks: the voxels of each class, bool (E, N).
        most: K.
        offset: in [0, 1), of the first voxel: a random one gives every voxel the same chance.

    Returns:
        Numbers of voxels (E, K), ascending, and how many voxels the class has (E,): if fewer, the first ones count.
    """
    ranks = masks.cumsum(1, dtype=torch.int32)
    n, slot = ranks[:, -1:].long(), torch.arange(most, device=masks.device)
    chosen = torch.where(n <= most, slot, ((slot + offset) * (n.double() / most)).long())
    wanted = torch.minimum(chosen + 1, n).int()
    return torch.searchsorted(ranks, wanted).clamp_max(masks.shape[1] - 1), n[:, 0]
