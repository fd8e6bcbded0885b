"""How voxels of unlabeled patches relate to a memory of labeled ones, as two networks have it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nnunet_ssl.distributed import mean_over_ranks, world_size
from nnunet_ssl.kinds import Kind
from nnunet_ssl.losses.cross_entropy import weighted_mean
from nnunet_ssl.memory.case_bank import CaseBank, spread
from nnunet_ssl.networks.net import Output
from nnunet_ssl.networks.projection import projection
from nnunet_ssl.task import Target

WIDTH = 32  # of projections and predictions
_EPS = 1e-8  # inside of the logarithm; of the released code
_PART = {"cpu": 2**18}  # relations computed at once: on a CPU what its cache holds with all that is made of them
_LARGE_PART = 2**23  # elsewhere


class Correlations(nn.Module):
    """Projections g and predictions q of two networks, the memory, and the loss between their relations to it.

    Methods call it outside of autocast. Its outputs have the tap "head".

    Args:
        kind: classes; or regions, of which each has two: inside and outside.
        features: F, before the head of either network.
        cases: ids of the labeled cases.
        size: K, vectors of each class that a voxel is related to.
        max_voxels: voxels that are related in a step, shared equally by the classes.
        tau: temperature of the relations.
    """

    def __init__(self, kind: Kind, features: int, cases: Sequence[str], size: int, max_voxels: int, tau: float):
        super().__init__()
        self.g = nn.ModuleList(projection(features, WIDTH, WIDTH, nn.ReLU()) for _ in range(2))
        self.q = nn.ModuleList(projection(WIDTH, WIDTH, WIDTH, nn.ReLU()) for _ in range(2))
        self.bank = CaseBank(cases, kind.all_outcomes, size, WIDTH)
        self.max_voxels, self.tau = max(1, max_voxels // kind.all_outcomes), tau

    @torch.no_grad()
    def remember(self, outputs: Sequence[Output], target: Target, cases: Sequence[str], offset: float) -> None:
        """The memory of each case gets the mean of both g(h) of the annotated voxels that both networks have right.

        Args:
            outputs: of both networks for labeled patches.
            target: of these.
            cases: ids of these.
            offset: see `spread`.
        """
        true = target.where_annotated(target.kind.exhaustive(target.kind.masks(target.labels)))
        right = agreed(*outputs) & true
        found = [spread(masks, self.bank.vectors.shape[2], offset) for masks in right.flatten(2)]
        index, count = (torch.stack(each) for each in zip(*found, strict=True))  # (B, E, K) and (B, E)
        self.g.eval()
        patch = torch.arange(len(index), device=index.device)[:, None, None].expand_as(index)
        both = zip(self.g, outputs, strict=True)
        vectors = torch.stack([g(voxels(output, patch, index)) for g, output in both]).mean(0)
        self.g.train()
        self.bank.update(cases, vectors.unflatten(0, index.shape), count)

    def forward(self, outputs: Sequence[Output], generator: torch.Generator) -> Tensor:
        """L_o, the mean cross-entropy of the second network's relations with the first one's; 0 without memory.

        Of the unlabeled voxels of which both networks say the same, those of which the first one is surest in each
        class. The statistics of g and q are those of as many voxels always: a class that has fewer gets others as well,
        which do not count otherwise.

        Args:
            outputs: of both networks for unlabeled patches.
            generator: of the draw from the memory, see `CaseBank.draw`.
        """
        kind = outputs[0].kind
        scores = torch.where(agreed(*outputs), kind.exhaustive(outputs[0].probs.detach()), -1)
        size, scores = scores[0, 0].numel(), scores.transpose(0, 1).flatten(1)
        best = [each.topk(min(self.max_voxels, scores.shape[1])) for each in scores]
        index, valid = torch.stack([each[1] for each in best]), torch.stack([each[0] for each in best]) >= 0
        valid = valid & (mean_over_ranks(valid.sum(1).double()) * world_size() > 1.5)[:, None]
        memory, known = self.bank.draw(generator)
        memory, usable = _by_question(memory, kind), _by_question(known[:, None].expand(memory.shape[:2]), kind)
        patch, place = index // size, index % size
        both = zip(self.q, self.g, outputs, strict=True)
        u_1, u_2 = (_by_question(q(g(voxels(o, patch, place))).unflatten(0, index.shape), kind) for q, g, o in both)
        losses = disagreement(u_1, u_2, memory, usable, self.tau)
        return weighted_mean(losses, (_by_question(valid, kind) & usable.any(1, keepdim=True)).float())


def agreed(first: Output, second: Output) -> Tensor:
    """The voxels of each outcome of which both networks say that it is one, bool (B, E, *spatial)."""
    masks = [output.kind.exhaustive(output.kind.masks(output.hard)) for output in (first, second)]
    return masks[0] & masks[1]


def disagreement(first: Tensor, second: Tensor, memory: Tensor, usable: Tensor, tau: float) -> Tensor:
    """- sum_k R_k ln(R'_k + 1e-8) of each voxel, R = softmax_k(second . m_k / tau) and R' that of the first, (Q, N).

    Args:
        first: of Q questions, (Q, N, D) in float32.
        second: of the same shape; it gets a gradient, too.
        memory: m, (Q, M, D).
        usable: which of these count, (Q, M); without any the values have no meaning, and no gradient.
        tau: temperature.
    """
    unusable = torch.where(usable, 0.0, -1e30)[:, None]
    return cast(Tensor, _Disagreement.apply(first, second, memory / tau, unusable))


class _Disagreement(torch.autograd.Function):
    """Values with their gradients, part by part, so that no relation is kept for the way back."""

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor, memory: Tensor, unusable: Tensor) -> Tensor:
        rows = max(1, _PART.get(first.device.type, _LARGE_PART) // memory.shape[1])
        pairs = zip(first.split(rows, 1), second.split(rows, 1), strict=True)
        parts = zip(*(_with_gradients(*pair, memory, unusable) for pair in pairs), strict=True)
        losses, *gradients = (torch.cat(part, 1) for part in parts)
        ctx.save_for_backward(*gradients)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_losses: Tensor) -> tuple[Tensor | None, ...]:
        first, second = (of_losses[..., None] * gradient for gradient in ctx.saved_tensors)
        return first, second, None, None


def _with_gradients(first: Tensor, second: Tensor, memory: Tensor, unusable: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """l = - sum_k R_k ln(R'_k + eps) of each voxel, (Q, N), and its gradients to both vectors, each (Q, N, D).

    With z the product with the memory:  dl/dz = - R (ln(R' + eps) + l),  dl/dz' = R' sum_k w_k - w,
    w = R R' / (R' + eps).
    """
    p, r = (torch.baddbmm(unusable, u, memory.mT).softmax(2) for u in (first, second))
    raised = p + _EPS
    terms = raised.log().mul_(r)
    loss = -terms.sum(2, keepdim=True)
    of_second = torch.bmm(terms.addcmul_(r, loss), memory).neg_()
    w = r.div_(raised).mul_(p)
    of_first = torch.bmm(p.mul_(w.sum(2, keepdim=True)).sub_(w), memory)
    return loss[..., 0], of_first, of_second


def voxels(output: Output, patch: Tensor, place: Tensor) -> Tensor:
    """h of voxels, (M, F) in float32, given by the numbers of their patch and their place in it, of M in all."""
    return output.features["head"].flatten(2)[patch.flatten(), :, place.flatten()].float()


def _by_question(values: Tensor, kind: Kind) -> Tensor:
    """Values (E, N, ...) of all outcomes as those of each question: (1, E N, ...), or of each region (C, 2 N, ...)."""
    outcomes = values.unflatten(0, (kind.outcomes, kind.all_outcomes // kind.outcomes))
    return outcomes.transpose(0, 1).flatten(1, 2)
