"""How sure a network is of what is true, followed through training."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from nnunet_ssl.distributed import mean_over_ranks, sum_over_ranks
from nnunet_ssl.kinds import Kind
from nnunet_ssl.networks.net import Output
from nnunet_ssl.task import Target

PENALTY = 0.632  # rank of a class that is not among the first: 1 - 1/e, that of R = 0


class ClassConfidence(nn.Module):
    """Mean probability of each class where it is true, over labeled voxels of all ranks.

        S_k, M_k  sum of p_k over the labeled voxels of class k, and their number, since the last `refresh`
        c_k       S_k / M_k at the first `refresh` with voxels of k, then m c_k + (1 - m) S_k / M_k;
                  as it was without voxels of k, and 0 before there were any

    Of regions inside and outside are classes each, all of them together (E,) = (2 C,). What a step that overflowed
    gives is not taken.

    Args:
        kind: classes or regions.
        momentum: m.

    Attributes:
        confidence: c, (E,).
        seen: what has a confidence, (E,).
        sums, counts: S and M, (E,).
    """

    confidence: Tensor
    seen: Tensor
    sums: Tensor
    counts: Tensor

    def __init__(self, kind: Kind, momentum: float = 0.999):
        super().__init__()
        self.momentum = momentum
        for name in ("confidence", "sums", "counts"):
            self.register_buffer(name, torch.zeros(kind.all_outcomes))
        self.register_buffer("seen", torch.zeros(kind.all_outcomes, dtype=torch.bool))

    @torch.no_grad()
    def add(self, probs: Tensor, target: Target) -> None:
        """Takes probabilities of this rank's labeled patches, (B, C, *spatial) in float32, and their target."""
        kind = target.kind
        true = target.where_annotated(kind.exhaustive(kind.masks(target.labels)))
        sums, counts = sum_over_ranks(torch.stack([over_voxels(kind.exhaustive(probs) * true), over_voxels(true)]))
        sound = sums.isfinite()
        self.sums += torch.where(sound, sums, 0)
        self.counts += torch.where(sound, counts, 0)

    @torch.no_grad()
    def refresh(self) -> None:
        """c from S and M, which begin anew."""
        new, present = self.sums / self.counts.clamp_min(1), self.counts > 0
        moved = torch.where(self.seen, self.momentum * self.confidence + (1 - self.momentum) * new, new)
        self.confidence.copy_(torch.where(present, moved, self.confidence))
        self.seen |= present
        self.sums.zero_()
        self.counts.zero_()

    def rates(self, gamma: float) -> Tensor:
        """`sampling_rates` of c, (E,)."""
        return sampling_rates(self.confidence, gamma)


class FuzzyConfidence(nn.Module):
    """Score of each class, fused from three indicators of how a network predicts where the class is true.

        D_1,k = p_k sum_j ln(p_j + 1e-12),  D_2,k = p_k,  D_3,k = max_j p_j - p_k
        I_i,k    mean of D_i,k over the labeled voxels of class k in a step, on all ranks, averaged over the steps since
                 the last `refresh` that have any; as it was where none has, and that of a guess before
        CC_k     m CC_k + (1 - m) cc_k at each `refresh`, cc = `fuzzy_score` of I; 0 at first

    Each region has one score, from the voxels inside of it; j is inside and outside. What a step that overflowed gives
    is not taken.

    Args:
        kind: classes or regions, of which there are C.
        momentum: m.

    Attributes:
        top: how many classes are ranked by each indicator.
        score: CC, (C,).
        indicators: I, (3, C).
        sums, steps: of I since the last `refresh`, (3, C), and over how many steps, (C,).
    """

    score: Tensor
    indicators: Tensor
    sums: Tensor
    steps: Tensor

    def __init__(self, kind: Kind, momentum: float = 0.99):
        super().__init__()
        self.momentum = momentum
        self.top = max(1, kind.channels - 2)
        guess = torch.tensor([-kind.max_entropy, 1 / kind.outcomes, 0.0])
        self.register_buffer("score", torch.zeros(kind.channels))
        self.register_buffer("indicators", guess[:, None].repeat(1, kind.channels))
        self.register_buffer("sums", torch.zeros(3, kind.channels))
        self.register_buffer("steps", torch.zeros(kind.channels))

    @torch.no_grad()
    def add(self, output: Output, target: Target) -> None:
        """Takes a prediction for this rank's labeled patches and their target."""
        true = target.where_annotated(target.kind.masks(target.labels))
        totals = [self.total(values, true) for values in indicators_of(output)]
        *sums, voxels = sum_over_ranks(torch.stack([*totals, over_voxels(true).float()]))
        means = torch.stack(sums) / voxels.clamp_min(1)
        sound = means.isfinite().all()
        self.sums += torch.where(sound, means, 0)
        self.steps += sound & self.counted(voxels)

    def total(self, values: Tensor, true: Tensor) -> Tensor:
        """The sum of an indicator (B, C, *spatial) over the voxels where its class is true, (C,)."""
        return over_voxels(values * true)

    def counted(self, voxels: Tensor) -> Tensor:
        """Whether a step counts, of the voxels (C,) that it has of each class."""
        return voxels > 0

    @torch.no_grad()
    def refresh(self) -> None:
        """I and CC from the steps since the last time; these begin anew."""
        new = torch.where(self.steps > 0, self.sums / self.steps.clamp_min(1), self.indicators)
        self.indicators.copy_(new)
        self.score.copy_(self.momentum * self.score + (1 - self.momentum) * fuzzy_score(new, self.top))
        self.sums.zero_()
        self.steps.zero_()

    def rates(self, gamma: float) -> Tensor:
        """`sampling_rates` of CC, (C,)."""
        return sampling_rates(self.score, gamma)


class FuzzyConfidenceDHC(FuzzyConfidence):
    """As the code of DHC has it: a step without a class counts with 0, 12 classes are ranked, and patches are mixed.

    Its sums have the values of every patch of the batch at the voxels where any patch has the class, over the number of
    these voxels: b patches weigh up to b times as much as one.

    Args, attributes: see `FuzzyConfidence`.
    """

    def __init__(self, kind: Kind, momentum: float = 0.99):
        super().__init__(kind, momentum)
        self.top = min(12, kind.channels)

    def total(self, values: Tensor, true: Tensor) -> Tensor:
        # patches of all ranks are one batch: a mean, as `add` sums what is then the same on each rank
        everywhere = mean_over_ranks(values.sum(0, keepdim=True))
        return over_voxels(everywhere * sum_over_ranks(true.float().sum(0, keepdim=True)))

    def counted(self, voxels: Tensor) -> Tensor:
        return torch.ones_like(voxels, dtype=torch.bool)


def indicators_of(output: Output) -> Iterator[Tensor]:
    """D_1, D_2 and D_3 of a prediction, each (B, C, *spatial) in float32."""
    kind, probs = output.kind, output.probs
    logarithms = (kind.log_probs(output.logits).exp() + 1e-12).log().sum(0)
    yield probs * kind.as_channels(kind.over_classes(logarithms))
    yield probs
    yield kind.as_channels(kind.confidence(probs)) - probs


def fuzzy_ranks(shares: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Ranks of classes by each of I indicators, and what of their shares counts, both (I, C).

        K_ik = 1 - exp(-exp(-2 R_ik)),  F_ik = R_ik     for the `top` classes with the largest R_i
        K_ik = 0.632,                   F_ik = 0        for the others

    Args:
        shares: R, (I, C).

    Source: Gompertz's function; penalty of Basak et al., MICCAI 2022, as in DHC's code.
    """
    ranked = shares >= shares.sort(1, descending=True).values[:, top - 1 : top]
    gompertz = 1 - (-(-2 * shares).exp()).exp()
    return torch.where(ranked, gompertz, PENALTY), torch.where(ranked, shares, 0)


def fuzzy_score(indicators: Tensor, top: int) -> Tensor:
    """cc_k = (1 - mean_i F_ik) sum_i K_ik over the largest of all classes, (C,); R_i = softmax of the i-th indicator.

    0 where there is no more than one.

    Args:
        indicators: (I, C).
        top: see `fuzzy_ranks`.
    """
    ranks, shares = fuzzy_ranks(indicators.softmax(1), top)
    fused = (1 - shares.mean(0)) * ranks.sum(0)
    return fused / fused.max().clamp_min(1e-12)


def sampling_rates(confidence: Tensor, gamma: float) -> Tensor:
    """((1 - c_k) / max_j (1 - c_j))^gamma, in the shape of c: 1 for the least confidence."""
    doubt = 1 - confidence
    return (doubt / (doubt.max() + 1e-12)) ** gamma


def over_voxels(values: Tensor) -> Tensor:
    """The sum of (B, C, *spatial) over patches and voxels, (C,)."""
    return values.sum((0, *range(2, values.ndim)))
