"""What ranks must agree on. In one process every function is the identity."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.nn import functional as dist_functional

from nnunet_ssl.errors import InputError


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process among those that train together, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def mean_over_ranks(value: Tensor) -> Tensor:
    """The mean of a tensor over all ranks, without gradient.

    A loss that is divided by the mean of its normalizer over ranks has, after DDP's averaging of gradients, the
    gradient of the joint batch.
    """
    value = value.detach()
    if world_size() == 1:
        return value
    value = value.clone()
    dist.all_reduce(value)
    return value / world_size()


def max_over_ranks(value: Tensor) -> Tensor:
    """The largest of a tensor over all ranks, without gradient."""
    if world_size() == 1:
        return value
    value = value.clone()
    dist.all_reduce(value, dist.ReduceOp.MAX)
    return value


def of_all_ranks(value: Any) -> list[Any]:
    """What each rank has, by rank."""
    values = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values


def gathered(value: Tensor) -> Tensor:
    """The tensors of all ranks, without gradient, as a new first axis; all have one shape."""
    value = value.detach()
    if world_size() == 1:
        return value[None]
    values = [torch.empty_like(value) for _ in range(world_size())]
    dist.all_gather(values, value.contiguous())
    return torch.stack(values)


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum of a tensor over all ranks; gradients flow back to every rank."""
    return dist_functional.all_reduce(value) if world_size() > 1 else value


@cache  # a training's batches have one size: the ranks ask each other once
def require_equal_batches(patches: int) -> None:
    """Raises InputError if ranks have other numbers of labeled patches: nnU-Net shares its batch out as it goes."""
    sizes = of_all_ranks(patches)
    if len(set(sizes)) > 1:
        raise InputError(
            f"This method relates the patches of all GPUs, and they have {' and '.join(map(str, sizes))} labeled ones: "
            "take a batch_size in the plans that their number divides."
        )


def world_of_batches(value: Tensor) -> Tensor:
    """The batches (B, ...) of all ranks as one, by rank; gradients flow back to every rank. All have one shape."""
    if world_size() == 1:
        return value
    batches = value.new_zeros(world_size(), *value.shape)
    batches[rank()] = value
    return sum_over_ranks(batches).flatten(0, 1)


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Averages gradients over all ranks with one all-reduce, as DDP does for the network that it wraps.

    A rank without a gradient counts as zero where another has one; a parameter that no rank has one for stays without.
    """
    if world_size() == 1 or not parameters:
        return
    mine = [parameter.grad is not None for parameter in parameters]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flags = torch.tensor(mine, dtype=gradients[0].dtype, device=gradients[0].device)
    mean = mean_over_ranks(torch.cat([*(gradient.flatten() for gradient in gradients), flags]))
    *parts, flags = mean.split([*(gradient.numel() for gradient in gradients), len(flags)])
    known = mine if all(mine) else (flags > 0).tolist()  # the device is waited for where a gradient is missing alone
    for parameter, gradient, part, anywhere in zip(parameters, gradients, parts, known, strict=True):
        if anywhere:
            parameter.grad = gradient.copy_(part.view_as(gradient))


def broadcast_state(module: nn.Module) -> None:
    """Gives every rank rank 0's parameters and buffers, as DDP does for the network that it wraps."""
    if world_size() > 1:
        for tensor in (*module.parameters(), *module.buffers()):
            dist.broadcast(tensor.detach(), 0)
