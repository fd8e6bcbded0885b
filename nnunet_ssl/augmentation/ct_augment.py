"""CTAugment: which strengths of augmentation a network still bears, learned on labeled patches during training.

D. Berthelot, N. Carlini, E. D. Cubuk, A. Kurakin, K. Sohn, H. Zhang, C. Raffel, "ReMixMatch: Semi-Supervised Learning
with Distribution Matching and Augmentation Anchoring", ICLR 2020. Each operation's range of levels [0, 1] is cut into
n bins with a rate m_i each.

    policy    operations drawn uniformly, with replacement; for each a bin i ~ p, level ~ U(i / n, (i + 1) / n)
              p_i = m_i + 1 - rho, over their largest; 0 below the cut
    probe     a labeled patch under a policy with uniform levels:  prox = 1 - ||f(x) - y||_1 / 2
    update    m_i <- rho m_i + (1 - rho) prox,  for all bins i of the probe's policy; m_i = 1 at the start

The operations are those of `intensity.py`, of nnU-Net's kinds; the paper's are for photographs of 8 bits.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from nnunet_ssl.augmentation.intensity import OPERATIONS
from nnunet_ssl.distributed import sum_over_ranks
from nnunet_ssl.networks.net import Output
from nnunet_ssl.task import Target


class Policy(NamedTuple):
    """What is done to each patch, one operation after the other.

    Attributes:
        operations: positions in `OPERATIONS`, (B, depth), on the host, where they choose the code to run.
        levels: in [0, 1], (B, depth), on the device.
    """

    operations: Tensor
    levels: Tensor

    def then(self, name: str, level: float) -> Policy:
        """The same, followed by an operation at one level for all patches."""
        last = len(self.operations), 1
        operations = self.operations.new_full(last, list(OPERATIONS).index(name)), self.levels.new_full(last, level)
        return Policy(*(torch.cat(pair, 1) for pair in zip(self, operations, strict=True)))

    @torch.no_grad()
    def __call__(self, image: Tensor) -> Tensor:
        """Patches (B, channels, *spatial) changed."""
        changed, functions = image.clone(), list(OPERATIONS.values())
        for operations, levels in zip(self.operations.T, self.levels.T, strict=True):
            for operation in operations.unique().tolist():
                rows = (operations == operation).nonzero()[:, 0].to(image.device, non_blocking=True)
                changed[rows] = functions[operation](changed[rows], levels[rows])
        # where nnU-Net masks the outside of the object with zeros, it masks after all changes of intensity
        return torch.where((image == 0).all(1, keepdim=True), image, changed)


class CTAugment(nn.Module):
    """The rates of all bins, a buffer that is equal on all ranks.

    Args:
        cut: below this share of an operation's best bin, a bin is not drawn.
        bins: n.
        decay: rho.
    """

    def __init__(self, cut: float = 0.8, bins: int = 17, decay: float = 0.99):
        super().__init__()
        self.cut = cut
        self.decay = decay
        self.register_buffer("rates", torch.ones(len(OPERATIONS), bins))

    def weights(self) -> Tensor:
        """p before it is divided by its sum, (operations, bins)."""
        weights = self.rates + (1 - self.decay)
        weights = weights / weights.amax(1, keepdim=True)
        return torch.where(weights < self.cut, 0, weights)

    def draw(self, patches: int, depth: int) -> Policy:
        """A policy for strong views."""
        operations = torch.randint(len(self.rates), (patches, depth))
        weights = self.weights()[operations.to(self.rates.device, non_blocking=True)]
        # the one that comes first in a race of exponential clocks is drawn from p; multinomial() waits for the device
        bins = (weights / torch.empty_like(weights).exponential_()).argmax(-1)
        return Policy(operations, (bins + self._uniform(bins.shape)) / self.rates.shape[1])

    def draw_probe(self, patches: int, depth: int) -> Policy:
        """A policy that tries all bins alike."""
        return Policy(torch.randint(len(self.rates), (patches, depth)), self._uniform((patches, depth)))

    def _uniform(self, shape: tuple[int, ...]) -> Tensor:
        return torch.rand(shape, device=self.rates.device)

    @torch.no_grad()
    def update(self, policy: Policy, proximity: Tensor, known: Tensor) -> None:
        """Moves each bin that any rank probed towards the mean proximity of all probes of it, once.

        Args:
            policy: the probe's.
            proximity: of each patch, (B,).
            known: the patches that count, (B,).
        """
        operations, bins = self.rates.shape
        index = (policy.levels * bins * 0.999).long()
        index = index + bins * policy.operations.to(index.device, non_blocking=True)
        probed = (index[..., None] == torch.arange(operations * bins, device=index.device)) & known[:, None, None]
        sums = torch.stack([(probed * proximity[:, None, None]).sum((0, 1)), probed.sum((0, 1))])
        total, count = sum_over_ranks(sums).view(2, operations, bins)
        moved = self.decay * self.rates + (1 - self.decay) * total / count.clamp_min(1)
        self.rates.copy_(torch.where(count > 0, moved, self.rates))


def proximity(output: Output, target: Target) -> tuple[Tensor, Tensor]:
    """How near a prediction is to the labels, (B,) in [0, 1], and which patches have any annotated voxel, (B,).

    1 - ||p - y||_1 / 2 is the probability of the label at a voxel. Its mean is taken over the voxels of each class that
    the patch holds, then over these classes, so that small organs count. A region is two classes, inside and outside.

    Args:
        output: prediction for the patches.
        target: of the patches; unannotated voxels do not count.
    """
    probs, holds = map(output.kind.exhaustive, (output.probs, target.kind.masks(target.labels)))
    holds = target.where_annotated(holds)
    axes = tuple(range(2, probs.ndim))
    voxels = holds.sum(axes)
    mean = torch.where(holds, probs, 0).sum(axes) / voxels.clamp_min(1)
    present = (voxels > 0).sum(1)
    near = mean.sum(1) / present.clamp_min(1)
    return near.nan_to_num(0), (present > 0) & near.isfinite()
