"""Steps of every method on the device itself, in float16 with its scaler: numbers, waits and memory."""

import gc
import warnings

import pytest
import torch
from battery import METHODS, WAITS, quiet
from real_device import DEVICE, LONG_ON_CPU, ON_GPU, needs_gpu
from tiny_steps import ALL, LATE, batches, gradients, on, optimizers_of, ready, train

FORM = (3 if ON_GPU else 2, 3, False)  # a step in 3D takes a CPU six times as long
STEPS = 200 if ON_GPU else 20
MIB = 2**20
pytestmark = pytest.mark.gpu


def two_steps(method, precision, compiled):
    """The terms of two steps, and the gradient of the second as one vector."""
    torch.compiler.reset()
    net, made = ready(method, *FORM, compiled=compiled, device=DEVICE, **quiet(method))
    terms = list(train(net, made, FORM, precision=precision, device=DEVICE))
    return terms, torch.cat([gradient.flatten() for gradient in gradients(net).values()])


def check_float16(method, compiled):
    terms, gradient = two_steps(method, "float16", compiled)
    expected, wanted = two_steps(method, "float32", compiled=False)
    for found, exact in zip(terms, expected, strict=True):
        assert found.keys() == exact.keys()
        for name, value in exact.items():
            value = torch.as_tensor(value, device=DEVICE).float()
            assert torch.isfinite(value)
            found_value = torch.as_tensor(found[name], device=DEVICE).float()
            torch.testing.assert_close(
                found_value, value, rtol=0.05, atol=0.02, msg=lambda text, name=name: f"{name}: {text}"
            )
    assert torch.linalg.vector_norm(gradient - wanted) < 0.2 * torch.linalg.vector_norm(wanted)


@ALL
def test_two_steps_in_float16_are_those_of_float32(method):
    check_float16(method, compiled=False)


@pytest.mark.slow
@pytest.mark.parametrize("method", [pytest.param(m, id=m.__name__, marks=LONG_ON_CPU) for m in METHODS])
def test_compiled_by_inductor_too(method, inductor):
    check_float16(method, compiled=True)


def waits_in(work) -> list[str]:
    """Where the host waits for the GPU, as "file:line"."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return [f"{each.filename}:{each.lineno}" for each in caught if "synchronizing" in str(each.message)]


@needs_gpu
def test_a_wait_is_noticed():
    numbers = torch.ones(3, device=DEVICE)
    assert waits_in(lambda: numbers + 1) == []
    assert [each.split(":")[0] for each in waits_in(lambda: numbers.sum().item())] == [__file__]


@needs_gpu  # tests/methods/test_rehearsal.py rehearses it
@ALL
def test_no_step_waits_for_the_gpu(method):
    net, made = ready(method, *FORM, device=DEVICE)
    optimizers = optimizers_of(net, made)
    labeled, unlabeled = (on(DEVICE, batch) for batch in batches(*FORM))

    def step():
        with torch.autocast(DEVICE.type, torch.float16):
            terms = made.losses(net, labeled, unlabeled, LATE)
        sum(terms.values()).backward()
        for optimizer in optimizers:
            optimizer.step()  # without a scaler, which reads whether the gradient has overflowed
        made.after_step(net, LATE)

    step()  # what is done once may wait
    waits = waits_in(step)
    assert bool(waits) == (method.__name__ in WAITS), waits


def memory() -> int:
    """Bytes that tensors hold: of the GPU; without one, those that Python reaches, fake ones left out."""
    gc.collect()
    if ON_GPU:
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()
    tensors = [each for each in gc.get_objects() if type(each) in (torch.Tensor, torch.nn.Parameter)]
    storages = [each.untyped_storage() for each in tensors if each.device == DEVICE and each.layout == torch.strided]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def test_memory_that_is_kept_is_noticed():
    before = memory()
    kept = torch.ones(2 * MIB, device=DEVICE)
    assert memory() - before >= kept.nbytes


@ALL
def test_memory_comes_back_to_its_level(method):
    net, made = ready(method, *FORM, device=DEVICE)
    level = 0
    for step, _ in enumerate(train(net, made, FORM, precision="float16", steps=STEPS, device=DEVICE), 1):
        if step == STEPS // 2:
            level = memory()
    assert 0 < memory() <= level + (MIB if ON_GPU else 0)
