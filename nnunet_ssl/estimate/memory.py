"""The memory that a training step takes at its peak, found by a step in which nothing is computed.

The trainer's own step runs on tensors that have a type and a shape and no values (torch's fake tensors): forward,
losses, backward and optimizer, with whatever the method does. Every block of memory that its operations make is added
up while it is held. What an operation needs within itself, such as the workspace of a convolution, is not among it.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from nnunet_ssl.training.configured import ConfiguredTrainer

STEPS = 2  # the first one makes what the optimizer keeps


class HeldBytes(TorchDispatchMode):
    """Within the context: the bytes of all tensors that operations made and that are still held.

    Attributes:
        held: at the moment.
        peak: at most so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, op: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = self.run(op, args, kwargs or {})
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.add(leaf)
        return result

    def run(self, op: Any, args: tuple, kwargs: dict) -> Any:
        """An operation."""
        return op(*args, **kwargs)

    def add(self, tensor: Tensor) -> None:
        """Counts a tensor's memory, once for all that share it, until nothing holds it any more."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        size = storage.nbytes()
        weakref.finalize(storage, self._gone, key, size)
        self.held += size
        self.peak = max(self.peak, self.held)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.held -= size


class Uncomputed(HeldBytes):
    """Within the context operations on fake tensors give fake ones; those on real ones alone are done.

    A value of a fake tensor that is asked for is made up, and a mask chooses all voxels, the most that it can.
    """

    def __init__(self, fake: FakeTensorMode) -> None:
        super().__init__()
        self.fake = fake

    def run(self, op: Any, args: tuple, kwargs: dict) -> Any:
        """An operation, without values if one of its tensors has none."""
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        fakes = [tensor for tensor in tensors if isinstance(tensor, FakeTensor)]
        if not fakes:
            with unset_fake_temporarily():
                return op(*args, **kwargs)
        if op is torch.ops.aten._local_scalar_dense.default:
            return _made_up(fakes[0])
        if torch.Tag.data_dependent_output in op.tags:  # whether two tensors are equal, and the like
            return False
        if op is torch.ops.aten.nonzero.default:
            return fakes[0].new_empty((fakes[0].numel(), fakes[0].ndim), dtype=torch.int64)
        if op is torch.ops.aten.masked_select.default:
            return fakes[0].new_empty(fakes[0].numel())
        if op is torch.ops.aten.index.Tensor:
            return op(args[0], _as_numbers(args[1]))
        return op(*args, **kwargs)


def step_bytes(
    trainer: ConfiguredTrainer, batch: dict[str, Any], types: Sequence[torch.dtype | None] = (None,)
) -> list[int]:
    """The bytes held at most in a training step: networks, optimizer, batch, what backward needs, gradients.

    Args:
        trainer: on the CPU, ready for a step; afterwards it is of no use for a real one.
        batch: as its loaders give it.
        types: one step each: in which convolutions are computed by autocast, as nnU-Net's on a GPU, and all else that
            may; None for float32 throughout.
    """
    fake, found = FakeTensorMode(allow_non_fake_inputs=True), []
    batch = tree_map_only(Tensor, fake.from_tensor, batch)
    for autocast in types:
        counted = Uncomputed(fake)
        without_values = mock.patch.object(FakeTensor, "numpy", lambda tensor: np.zeros(tensor.shape), create=True)
        with without_values, _autocast(autocast), fake, counted:  # nnU-Net's own step gives its loss to numpy
            for tensor in [*state_of(trainer), *tree_leaves(batch)]:
                if isinstance(tensor, Tensor):
                    counted.add(tensor)
            for _ in range(STEPS):
                counted.peak = counted.held
                trainer.train_step(batch)
        found.append(counted.peak)
    return found


def state_of(trainer: ConfiguredTrainer) -> Iterator[Any]:
    """What a trainer holds between two steps; momentum comes with the first uncomputed one."""
    for module in (trainer.network, getattr(trainer, "method", None)):
        if isinstance(module, torch.nn.Module):
            yield from module.parameters()
            yield from module.buffers()
    for optimizer in getattr(trainer, "optimizers", [trainer.optimizer]):
        yield from tree_leaves([*optimizer.state.values()])


@contextlib.contextmanager
def _autocast(dtype: torch.dtype | None) -> Iterator[None]:
    if dtype is None:
        yield
    else:
        with torch.autocast("cpu", dtype=dtype):
            yield


def _made_up(tensor: Tensor) -> bool | int | float:
    return True if tensor.dtype is torch.bool else 1.0 if tensor.is_floating_point() else 1


def _as_numbers(indices: list[Tensor | None]) -> list[Tensor | None]:
    """Masks among the indices as numbers of voxels, one for each axis of the mask."""
    found: list[Tensor | None] = []
    for index in indices:
        if index is not None and index.dtype in (torch.bool, torch.uint8):
            found += [index.new_empty(index.numel(), dtype=torch.int64) for _ in range(index.ndim)]
        else:
            found.append(index)
    return found
