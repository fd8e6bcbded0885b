"""What the output channels of a network are: classes, of which a voxel has one, or regions, which may overlap.

Whatever differs between the two stands here, so that methods and losses are written once. Shapes of the two:

    labels        class numbers (B, *spatial)        0/1 for each region (B, C, *spatial)
    a voxel map   (B, *spatial)                      (B, C, *spatial), as each region is a question of its own
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F

_EPS = 1e-6  # inside the logarithm of `entropy`, as in the code of Yu et al., and the bounds of `logits_of`
_OUTSIDE = -1e4  # a region's logit whose sigmoid and loss are 0; infinity times a label of 0 would be none


class Kind(ABC):
    """Classes or regions.

    Args:
        channels: C, output channels of the network.

    Attributes:
        background: how many of the first channels are background.
        outcomes: what a voxel's label, or a region's at a voxel, can be.
        all_outcomes: channels that `exhaustive` gives.
        entries: numbers that `count_entries` gives.
        ignore_factor: nnU-Net's cross-entropy with an ignore label, over the mean of the voxels that count.
    """

    background: int
    outcomes: int
    all_outcomes: int
    entries: int
    ignore_factor: int

    def __init__(self, channels: int):
        self.channels = channels

    # ---- of logits (B, C, *spatial); all in float32

    @abstractmethod
    def probs(self, logits: Tensor) -> Tensor:
        """Probabilities (B, C, *spatial): softmax, or a sigmoid for each region."""

    @abstractmethod
    def log_probs(self, logits: Tensor) -> Tensor:
        """Log-probabilities (1, B, C, *spatial); of inside and outside of each region, (2, B, C, *spatial)."""

    @abstractmethod
    def log_odds(self, logits: Tensor, probs: Tensor) -> Tensor:
        """ln p / (1 - p) of each channel against all else, (B, C, *spatial)."""

    @abstractmethod
    def hard(self, logits: Tensor) -> Tensor:
        """Labels without gradient: the largest class, or the regions above 0.5 as 0. and 1."""

    @abstractmethod
    def entropy_of_logits(self, logits: Tensor) -> Tensor:
        """Entropy in nats without epsilon, (B, 1, *spatial) or (B, C, *spatial): exact for sure predictions, too."""

    @abstractmethod
    def doubt(self, logits: Tensor) -> Tensor:
        """ln (1 - p) / p of the hard label's p, a voxel map: the surer the lower, also where p is 1 in float32."""

    @abstractmethod
    def cross_entropy(self, logits: Tensor, labels: Tensor, reduction: str = "none") -> Tensor:
        """Cross-entropy with labels, a voxel map; or its mean."""

    @abstractmethod
    def noise(self, logits: Tensor) -> Tensor:
        """Random numbers, float32 in their shape, with which `hard(logits + noise)` draws labels by `probs(logits)`."""

    @abstractmethod
    def merged(self, logits: Tensor, missing: Tensor) -> Tensor:
        """Logits that tell channels that were not annotated from the background no more, in float32.

        Classes: their logits are -inf, and the background has their probabilities besides its own, since a voxel that
        is labeled background may be any of them. Regions: outside for sure, as the labels have it. With these logits
        nnU-Net's loss is that of what is known: no gradient tells these channels from the background, its Dice counts
        no voxel for them, and all else is as ever.

        Args:
            missing: bool, (B, C, *spatial), or (B, C, 1, ...) for whole patches.
        """

    # ---- of probabilities or other values of each channel, (B, C, *spatial)

    @abstractmethod
    def logits_of(self, probs: Tensor) -> Tensor:
        """Logits that give these probabilities, which are held between 1e-6 and 1 - 1e-6."""

    @abstractmethod
    def confidence(self, probs: Tensor) -> Tensor:
        """Probability of the hard label, a voxel map: of the largest class, or max(p, 1 - p)."""

    @abstractmethod
    def entropy(self, probs: Tensor) -> Tensor:
        """Entropy in nats, (B, 1, *spatial) or (B, C, *spatial), with 1e-6 inside of the logarithm."""

    @abstractmethod
    def over_classes(self, values: Tensor) -> Tensor:
        """The sum over classes, which is one question, or the values of the regions: a voxel map."""

    @abstractmethod
    def exhaustive(self, values: Tensor) -> Tensor:
        """Values of all outcomes: of the classes, or of inside and outside (1 - v) of regions, (B, 2 C, *spatial)."""

    # ---- of labels

    @abstractmethod
    def read(self, target: Tensor, ignore_label: int | None) -> tuple[Tensor, Tensor | None]:
        """Labels of nnU-Net's target at one scale, and the voxels (B, *spatial) that are annotated, None for all."""

    @abstractmethod
    def certain(self, labels: Tensor, missing: Tensor) -> Tensor:
        """The voxels (B, *spatial) whose label is sure where channels were not annotated, a mask as in `merged`.

        Of classes those of the foreground, and all where nothing is missing; of regions the latter alone.
        """

    @abstractmethod
    def masks(self, labels: Tensor, first: int = 0) -> Tensor:
        """The voxels of each channel from the first asked for, bool (B, C - first, *spatial)."""

    @abstractmethod
    def common(self, first: Tensor, second: Tensor) -> Tensor:
        """Labels where two agree; the class -1, or no region, where they do not."""

    @abstractmethod
    def count(self, labels: Tensor, counted: Tensor | None = None) -> Tensor:
        """Voxels of each channel over the batch, (C,); of those that count, a bool voxel map, or of all."""

    @abstractmethod
    def count_entries(self, labels: Tensor, valid: Tensor | None = None) -> Tensor:
        """Voxels of each channel, and for regions one entry more, in none of them; of a mask (B, *spatial), or all."""

    @abstractmethod
    def entry_of(self, labels: Tensor, rank: Tensor) -> Tensor:
        """The entry of each voxel (B, *spatial): its class, or of the regions that it is in that of largest rank."""

    @abstractmethod
    def outcome_of(self, labels: Tensor) -> Tensor:
        """The number of each label's channel in `exhaustive`, a voxel map of integers."""

    @abstractmethod
    def weight_of(self, weights: Tensor, labels: Tensor) -> Tensor:
        """The weight of each label, from those of the channels (C,): a voxel map."""

    # ---- of voxel maps and labels

    @abstractmethod
    def as_channels(self, voxel_map: Tensor) -> Tensor:
        """With an axis of channels, (B, 1, *spatial) or (B, C, *spatial)."""

    @abstractmethod
    def of_channels(self, channels: Tensor) -> Tensor:
        """The inverse of `as_channels`."""

    @abstractmethod
    def spread(self, mask: Tensor) -> Tensor:
        """A mask of voxels (B, *spatial) as a voxel map: the same for each region."""

    def nearest(self, voxel_map: Tensor, size: torch.Size) -> Tensor:
        """At another resolution by the nearest voxel, as nnU-Net does with labels."""
        return self.of_channels(nearest(self.as_channels(voxel_map), size))

    @property
    def max_entropy(self) -> float:
        """Largest possible entropy, in nats."""
        return math.log(self.outcomes)


class Classes(Kind):
    """Classes that exclude each other, the background first: softmax."""

    background = 1
    ignore_factor = 1

    def __init__(self, channels: int):
        super().__init__(channels)
        self.outcomes = self.all_outcomes = self.entries = channels

    def probs(self, logits: Tensor) -> Tensor:
        return logits.float().softmax(1)

    def log_probs(self, logits: Tensor) -> Tensor:
        return logits.float().log_softmax(1)[None]

    def log_odds(self, logits: Tensor, probs: Tensor) -> Tensor:
        return probs.logit(1e-7)

    def hard(self, logits: Tensor) -> Tensor:
        return logits.detach().max(1).indices  # as argmax, which takes ten times as long on a CPU

    def entropy_of_logits(self, logits: Tensor) -> Tensor:
        log_probs = logits.float().log_softmax(1)
        return -(log_probs.exp() * log_probs).sum(1, keepdim=True)

    def doubt(self, logits: Tensor) -> Tensor:
        logits = logits.detach().float()
        largest = logits.max(1, keepdim=True).indices
        return (logits.scatter(1, largest, -math.inf).logsumexp(1, keepdim=True) - logits.gather(1, largest))[:, 0]

    def cross_entropy(self, logits: Tensor, labels: Tensor, reduction: str = "none") -> Tensor:
        return F.cross_entropy(logits.float(), labels, reduction=reduction)

    def noise(self, logits: Tensor) -> Tensor:
        return gumbel_noise(logits)

    def merged(self, logits: Tensor, missing: Tensor) -> Tensor:
        logits, foreground = logits.float(), missing[:, 1:]
        background = torch.cat((logits[:, :1], logits[:, 1:].masked_fill(~foreground, -math.inf)), 1)
        known = logits[:, 1:].masked_fill(foreground, -math.inf)
        return torch.cat((background.logsumexp(1, keepdim=True), known), 1)

    def logits_of(self, probs: Tensor) -> Tensor:
        return probs.clamp(_EPS, 1 - _EPS).log()

    def confidence(self, probs: Tensor) -> Tensor:
        return probs.amax(1)

    def entropy(self, probs: Tensor) -> Tensor:
        return -(probs * (probs + _EPS).log()).sum(1, keepdim=True)

    def over_classes(self, values: Tensor) -> Tensor:
        return values.sum(1)

    def exhaustive(self, values: Tensor) -> Tensor:
        return values

    def read(self, target: Tensor, ignore_label: int | None) -> tuple[Tensor, Tensor | None]:
        labels = target[:, 0].long()
        if ignore_label is None:
            return labels, None
        return torch.where(labels == ignore_label, 0, labels), labels != ignore_label

    def certain(self, labels: Tensor, missing: Tensor) -> Tensor:
        return (labels > 0) | ~missing.any(1)

    def masks(self, labels: Tensor, first: int = 0) -> Tensor:
        classes = torch.arange(first, self.channels, device=labels.device)
        return labels[:, None] == on_channels(classes, labels.ndim + 1)

    def common(self, first: Tensor, second: Tensor) -> Tensor:
        return torch.where(first == second, first, -1)

    def count(self, labels: Tensor, counted: Tensor | None = None) -> Tensor:
        """Float64, without a copy to the host; numbers that are no class, such as -1, are left out."""
        labels = labels if counted is None else torch.where(counted, labels, -1)
        return torch.histc(labels.double(), self.channels, -0.5, self.channels - 0.5)

    def count_entries(self, labels: Tensor, valid: Tensor | None = None) -> Tensor:
        return self.count(labels, valid)

    def entry_of(self, labels: Tensor, rank: Tensor) -> Tensor:
        return labels

    def outcome_of(self, labels: Tensor) -> Tensor:
        return labels

    def weight_of(self, weights: Tensor, labels: Tensor) -> Tensor:
        return weights[labels]

    def as_channels(self, voxel_map: Tensor) -> Tensor:
        return voxel_map[:, None]

    def of_channels(self, channels: Tensor) -> Tensor:
        return channels[:, 0]

    def spread(self, mask: Tensor) -> Tensor:
        return mask


class Regions(Kind):
    """Regions that may overlap, each with a sigmoid of its own."""

    background = 0
    outcomes = 2

    def __init__(self, channels: int):
        super().__init__(channels)
        self.all_outcomes = 2 * channels
        self.entries = channels + 1
        self.ignore_factor = channels  # there nnU-Net sums over regions, where it takes the mean without

    def probs(self, logits: Tensor) -> Tensor:
        return logits.float().sigmoid()

    def log_probs(self, logits: Tensor) -> Tensor:
        logits = logits.float()
        return torch.stack((F.logsigmoid(logits), F.logsigmoid(-logits)))

    def log_odds(self, logits: Tensor, probs: Tensor) -> Tensor:
        return logits.float()

    def hard(self, logits: Tensor) -> Tensor:
        return (logits.detach() > 0).float()

    def entropy_of_logits(self, logits: Tensor) -> Tensor:
        logits = logits.float()
        return F.binary_cross_entropy_with_logits(logits, logits.sigmoid(), reduction="none")

    def doubt(self, logits: Tensor) -> Tensor:
        return -logits.detach().float().abs()

    def cross_entropy(self, logits: Tensor, labels: Tensor, reduction: str = "none") -> Tensor:
        return F.binary_cross_entropy_with_logits(logits.float(), labels.float(), reduction=reduction)

    def noise(self, logits: Tensor) -> Tensor:
        return gumbel_noise(logits) - gumbel_noise(logits)  # of inside and of outside

    def merged(self, logits: Tensor, missing: Tensor) -> Tensor:
        return logits.float().masked_fill(missing, _OUTSIDE)

    def logits_of(self, probs: Tensor) -> Tensor:
        return probs.logit(_EPS)

    def confidence(self, probs: Tensor) -> Tensor:
        return torch.maximum(probs, 1 - probs)

    def entropy(self, probs: Tensor) -> Tensor:
        return -(probs * (probs + _EPS).log() + (1 - probs) * (1 - probs + _EPS).log())

    def over_classes(self, values: Tensor) -> Tensor:
        return values

    def exhaustive(self, values: Tensor) -> Tensor:
        return torch.cat((values, ~values if values.dtype == torch.bool else 1 - values), 1)

    def read(self, target: Tensor, ignore_label: int | None) -> tuple[Tensor, Tensor | None]:
        return (target, None) if ignore_label is None else (target[:, :-1], ~target[:, -1].bool())

    def certain(self, labels: Tensor, missing: Tensor) -> Tensor:
        return (~missing.any(1)).expand(len(labels), *labels.shape[2:])

    def masks(self, labels: Tensor, first: int = 0) -> Tensor:
        return labels[:, first:].bool()

    def common(self, first: Tensor, second: Tensor) -> Tensor:
        return first.bool() & second.bool()

    def count(self, labels: Tensor, counted: Tensor | None = None) -> Tensor:
        inside = labels.bool() if counted is None else labels.bool() & counted
        return inside.sum((0, *range(2, inside.ndim)))

    def count_entries(self, labels: Tensor, valid: Tensor | None = None) -> Tensor:
        in_none = ~labels.bool().any(1)
        if valid is None:
            return torch.cat([self.count(labels), in_none.sum().view(1)])
        return torch.cat([self.count(labels, valid[:, None]), (in_none & valid).sum().view(1)])

    def entry_of(self, labels: Tensor, rank: Tensor) -> Tensor:
        inside = labels.bool()
        ranks = torch.where(inside, on_channels(rank[: self.channels], labels.ndim), -math.inf)
        return torch.where(inside.any(1), ranks.max(1).indices, self.channels)

    def outcome_of(self, labels: Tensor) -> Tensor:
        inside = on_channels(torch.arange(self.channels, device=labels.device), labels.ndim)
        return torch.where(labels.bool(), inside, inside + self.channels)

    def weight_of(self, weights: Tensor, labels: Tensor) -> Tensor:
        return on_channels(weights, labels.ndim) * torch.ones_like(labels)

    def as_channels(self, voxel_map: Tensor) -> Tensor:
        return voxel_map

    def of_channels(self, channels: Tensor) -> Tensor:
        return channels

    def spread(self, mask: Tensor) -> Tensor:
        return mask[:, None].expand(-1, self.channels, *mask.shape[1:])


def gumbel_noise(like: Tensor) -> Tensor:
    """-ln(-ln U) of uniform U, float32 in the shape of a tensor."""
    return -torch.empty_like(like, dtype=torch.float32).exponential_().log()


def on_channels(values: Tensor, axes: int) -> Tensor:
    """One value for each channel (C,), shaped to broadcast over (B, C, *spatial) of so many axes."""
    return values.view(-1, *[1] * (axes - 2))


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """One value for each sample (B,), shaped to broadcast over (B, ...)."""
    return values.view(-1, *[1] * (like.ndim - 1))


def nearest(volume: Tensor, size: torch.Size) -> Tensor:
    """(B, channels, *spatial) at another resolution by the nearest voxel."""
    return F.interpolate(volume.float(), size, mode="nearest-exact").to(volume.dtype)
