"""A GPU for machines that have none: its tensors have a device, a type and a shape, and no values."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nnunet_ssl.networks.own_optimizer import OwnOptimizer

aten = torch.ops.aten
SETTING = {aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
# operations that take a single number of the CPU as an argument of their kernel, beside all that work voxel by voxel
TAKES_A_NUMBER = {aten.fill.Tensor, aten.fill_.Tensor, aten.copy_.default}
BETWEEN_DEVICES = {aten.copy_.default, aten.index.Tensor, *SETTING}


class WrongDevice(Exception):
    """An operation on tensors of the GPU and of the CPU, which a GPU refuses."""


class UnknownShape(Exception):
    """A shape depends on values of the GPU: the host waits to learn it, and here there is none."""


class GpuRehearsal(TorchDispatchMode):
    """Within the context tensors on "cuda" can be made and used without a GPU; those on the CPU are real.

    What is drawn on the host has values therefore, and decides what is done. A value of the GPU that the host asks for
    is made up. To be entered within the context of `fake`.

    Attributes:
        fake: torch's own mode, which knows the type and shape of every result.
        waits: where the host has waited for the GPU so far, as "module:line: what for".

    Raises:
        WrongDevice: see there.
        UnknownShape: see there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.waits: list[str] = []

    def __torch_dispatch__(self, op: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if op is torch.ops.prim.device.default:  # two of three calls
            return args[0].fake_device
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        of_cpu = [tensor for tensor in tensors if not on_gpu(tensor)]
        if len(of_cpu) == len(tensors) and torch.device(kwargs.get("device") or "cpu").type == "cpu":
            with unset_fake_temporarily():
                return op(*args, **kwargs)
        if op is aten._to_copy.default:
            return self._copied(*args, **kwargs)
        if torch.Tag.data_dependent_output in op.tags:
            self._wait("a value is read by the host")
            return made_up(op, tensors[0])
        numbers_alone = not any(tensor.ndim for tensor in of_cpu)
        if of_cpu and op not in BETWEEN_DEVICES and not (numbers_alone and takes_a_number(op)):
            met = ", ".join(f"{list(tensor.shape)} on {tensor.device.type}" for tensor in tensors)
            raise WrongDevice(f"{place()}: {op} of {met}")
        if op is aten.copy_.default:
            self._look_at_copy(*args, **kwargs)
        elif op is aten.index.Tensor or op in SETTING:
            self._look_at_index(*args)
        elif torch.Tag.dynamic_output_shape in op.tags:
            raise UnknownShape(f"{place()}: {op}")
        elif op is aten.multinomial.default:
            self._wait("the probabilities are checked")
        return op(*args, **kwargs)

    def _wait(self, reason: str) -> None:
        self.waits.append(f"{place()}: {reason}")

    def _copied(self, source: Tensor, *, non_blocking: bool = False, **to: Any) -> Tensor:
        """To another type or device."""
        device = torch.device(to.get("device") or source.device)
        if on_gpu(source) and device.type == "cpu":
            self._wait("a tensor is copied to the host")
            with unset_fake_temporarily():  # with values, for what is done with them
                return torch.ones(source.shape, dtype=to.get("dtype") or source.dtype)
        if on_gpu(source):
            return aten._to_copy.default(source, **to)
        if not non_blocking:
            self._wait("a tensor is copied to the GPU without non_blocking")
        return torch.empty_strided(source.shape, source.stride(), dtype=to.get("dtype") or source.dtype, device=device)

    def _look_at_copy(self, target: Tensor, source: Tensor, non_blocking: bool = False) -> None:
        if on_gpu(source) and not on_gpu(target):
            raise UnknownShape(f"{place()}: a tensor is copied to the host")
        if not on_gpu(source) and not non_blocking:
            self._wait("a tensor is copied to the GPU without non_blocking")

    def _look_at_index(self, tensor: Tensor, indices: list[Tensor | None], values: Tensor | None = None, *_: Any):
        number = values is not None and not on_gpu(values) and values.ndim == 0
        if not on_gpu(tensor) or not (values is None or number or on_gpu(values)):
            raise WrongDevice(f"{place()}: indexing between the GPU and the CPU")
        given = [index for index in indices if index is not None]
        if not all(map(on_gpu, given)):
            self._wait("an index of the CPU is copied to the GPU")
        if any(index.dtype in (torch.bool, torch.uint8) for index in given):
            if values is None:
                raise UnknownShape(f"{place()}: indexing with a mask")
            if not number:  # a number fills all voxels without counting them
                self._wait("the voxels of a mask are counted")


def on_gpu(tensor: Tensor) -> bool:
    """Whether a tensor is on the rehearsed GPU."""
    return isinstance(tensor, FakeTensor) and tensor.device.type == "cuda"


def takes_a_number(op: Any) -> bool:
    """Whether a single number of the CPU may stand among tensors of the GPU."""
    return torch.Tag.pointwise in op.tags or op in TAKES_A_NUMBER


def made_up(op: Any, tensor: Tensor) -> bool | int | float:
    """What the host gets: an operation's answer, or the value of a tensor."""
    if op is not aten._local_scalar_dense.default:
        return False
    return True if tensor.dtype is torch.bool else 1.0 if tensor.is_floating_point() else 1


def place() -> str:
    """The innermost line that is neither torch's nor of this module."""
    frame = sys._getframe()
    while frame.f_globals.get("__name__", "").split(".")[0] in ("torch", __name__):
        frame = frame.f_back
    return f"{frame.f_globals.get('__name__')}:{frame.f_lineno}"


def to_gpu(module: nn.Module) -> nn.Module:
    """Moves parameters and buffers as `module.to("cuda")` does, which in this mode would make new parameters."""
    moved: dict[Tensor, Tensor] = {}

    def of(tensor: Tensor | None) -> Tensor | None:
        if tensor is None or on_gpu(tensor):
            return tensor
        if tensor not in moved:
            copy = tensor.detach().to("cuda", non_blocking=True)
            moved[tensor] = nn.Parameter(copy, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copy
        return moved[tensor]

    for part in module.modules():
        for own in (part._parameters, part._buffers):
            own.update({name: of(tensor) for name, tensor in own.items()})
    for part in module.modules():
        if isinstance(part, OwnOptimizer):
            for group in part.optimizer.param_groups:
                group["params"] = [of(parameter) for parameter in group["params"]]
    return module


def rehearsed_backward(result: Tensor) -> None:
    """In the place of `Tensor.backward`: a gradient without values for all that a result was computed from."""
    for leaf in leaves(result):
        leaf.grad = torch.empty_like(leaf)


def rehearsed_grad(result: Tensor, inputs: Tensor) -> tuple[Tensor]:
    """In the place of `torch.autograd.grad`: a gradient without values."""
    if inputs not in leaves(result):
        raise RuntimeError("the gradient is wanted for what has not been used")
    return (torch.empty_like(inputs),)


def leaves(result: Tensor) -> set[Tensor]:
    """What a result was computed from that gets a gradient."""
    found, seen, rest = set(), set(), [result.grad_fn]
    while rest:
        node = rest.pop()
        if node is not None and node not in seen:
            seen.add(node)
            rest += [before for before, _ in node.next_functions]
            if hasattr(node, "variable"):
                found.add(node.variable)
    return found


@contextmanager
def gpu_rehearsal() -> Iterator[GpuRehearsal]:
    """Within the context there is a GPU, see `GpuRehearsal`, with autocast; gradients have no values.

    torch's engine wants a real GPU for a backward pass, so there is none.
    """
    rehearsal = GpuRehearsal()
    with (
        mock.patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False),
        mock.patch("torch.cuda.is_bf16_supported", lambda *_: True),
        mock.patch("torch.Tensor.backward", rehearsed_backward),
        mock.patch("torch.autograd.grad", rehearsed_grad),
        rehearsal.fake,
        rehearsal,
    ):
        yield rehearsal
