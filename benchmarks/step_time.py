"""Step time of each method against the sum of its network passes, timed alone in the same run.

    python benchmarks/step_time.py [--device cuda] [--patch 32 48 64] [--features 8 16 32 64] [--batch 2] [--repeats 9]

A step is `train_step` of the trainer: losses, backward, clipping, optimizer, moving averages. Its passes are the
forwards and backwards of its networks that the paper asks for, over as many patches. Both are timed in turn, so that
the ratio holds on a noisy machine. Peak memory is that of the GPU or, on a CPU, of the process.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from torch import Tensor, nn
from workspace import CLASSES, make_trainer, make_workspace, versions

from nnunet_ssl.data.loader import STREAM
from nnunet_ssl.training.trainer import SemiSupervisedTrainer

Passes = Callable[[SemiSupervisedTrainer, Tensor], list[Tensor]]


def learning(network: nn.Module, image: Tensor, batches: int = 1) -> Tensor:
    """A forward over so many batches at once, as a scalar to go backward from."""
    scales = network(torch.cat([image] * batches))
    return sum(scale.sum() for scale in (scales if isinstance(scales, (list, tuple)) else [scales]))


@torch.no_grad()
def looking(network: nn.Module, image: Tensor, times: int = 1) -> list[Tensor]:
    """So many forwards of one batch that nothing learns from."""
    for _ in range(times):
        network(image)
    return []


def discriminating(trainer: SemiSupervisedTrainer, image: Tensor) -> list[Tensor]:
    """The segmentation network, and the discriminator twice: judging unlabeled patches, then learning from all."""
    scales = trainer.network(torch.cat([image] * 2))
    judge, probs, images = trainer.method.evaluator, scales[0].softmax(1), torch.cat([image] * 2)
    judged = judge(probs[: len(image)], image).sum()
    judge.requires_grad_(True)
    judge(probs.detach(), images).sum().backward()
    judge.requires_grad_(False)
    return [sum(scale.sum() for scale in scales) + judged]


def decoding(trainer: SemiSupervisedTrainer, image: Tensor) -> list[Tensor]:
    """The student over both streams, its auxiliary decoders over the unlabeled one."""
    module = trainer.net.module
    skips = module.encoder(torch.cat([image] * 2))
    part = [skip[len(image) :] for skip in skips]
    return [sum(scale.sum() for scale in module.decoder(skips)), *(d(part).sum() for d in trainer.method.decoders)]


def attacking(trainer: SemiSupervisedTrainer, image: Tensor) -> list[Tensor]:
    """Two networks over both streams and as many adversarial images; before that one gradient on the images of each."""
    networks = trainer.network, trainer.method.second.network
    for network in networks:
        images = torch.cat([image] * 2).requires_grad_()
        torch.autograd.grad(network(images)[0].sum(), images)
    return [learning(network, image, 4) for network in networks]


def branching(trainer: SemiSupervisedTrainer, image: Tensor) -> list[Tensor]:
    """One encoder pass over both streams, and every decoder on its features."""
    module = trainer.net.module
    skips = module.encoder(torch.cat([image] * 2))
    return [scale.sum() for decoder in (module.decoder, *trainer.method.decoders) for scale in decoder(skips)]


def withstanding(trainer: SemiSupervisedTrainer, image: Tensor) -> list[Tensor]:
    """The student over both streams twice; before that one gradient on their images."""
    images = torch.cat([image] * 2).requires_grad_()
    torch.autograd.grad(trainer.network(images)[0].sum(), images)
    return [learning(trainer.network, image, 2), learning(trainer.network, image, 2)]


# The network passes that a paper asks of a step: losses to go backward from; what is without gradient is done at once.
PASSES: dict[str, Passes] = {
    "nnUNetTrainerSupervised": lambda t, x: [learning(t.network, x)],
    "nnUNetTrainerMeanTeacher": lambda t, x: [learning(t.network, x, 2), *looking(t.method.teacher, x)],
    "nnUNetTrainerUAMT": lambda t, x: [learning(t.network, x, 2), *looking(t.method.teacher, x, 9)],
    "nnUNetTrainerCPS": lambda t, x: [learning(n, x, 2) for n in (t.network, t.method.second.network)],
    "nnUNetTrainerDHC": lambda t, x: [learning(n, x, 2) for n in (t.network, t.method.second.network)],
    "nnUNetTrainerEntropyMinimization": lambda t, x: [learning(t.network, x, 2)],
    "nnUNetTrainerDAN": discriminating,
    "nnUNetTrainerICT": lambda t, x: [learning(t.network, x, 2), *looking(t.method.teacher, x)],
    "nnUNetTrainerURPC": lambda t, x: [learning(t.network, x, 2)],
    "nnUNetTrainerCCT": decoding,
    "nnUNetTrainerDCT": attacking,
    "nnUNetTrainerRotConsistency": lambda t, x: [learning(t.network, x, 3)],
    "nnUNetTrainerCrossTeaching": lambda t, x: [learning(n, x, 2) for n in (t.network, t.method.second.network)],
    "nnUNetTrainerFixMatch": lambda t, x: [*looking(t.network, x), learning(t.network, x, 2)],
    "nnUNetTrainerFixMatchCTA": lambda t, x: [*looking(t.network, x, 2), learning(t.network, x, 2)],
    "nnUNetTrainerBCP": lambda t, x: [learning(t.network, x, 2), *looking(t.method.teacher, x)],
    "nnUNetTrainerCutMix": lambda t, x: [learning(t.network, x, 2), *looking(t.method.teacher, x)],
    "nnUNetTrainerSelfTraining": lambda t, x: [learning(t.network, x, 2)],
    "nnUNetTrainerRDrop": lambda t, x: [learning(t.network, x, 4)],
    "nnUNetTrainerSSNet": withstanding,
    "nnUNetTrainerMCNet": branching,
    "nnUNetTrainerMCNetPlus": branching,
    "nnUNetTrainerMCF": lambda t, x: [learning(n, x, 2) for n in (t.network, t.method.second.network)],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--patch", type=int, nargs="+", default=[32, 48, 64])
    parser.add_argument("--features", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--trainers", nargs="+", default=list(PASSES), choices=list(PASSES))
    parser.add_argument("-o", dest="out", type=Path, help="JSON file for the figures")
    asked = parser.parse_args()

    rows = {}
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        make_workspace(Path(folder) / "work", asked.patch, asked.features, asked.batch)
        print(f"{'trainer':32}{'step ms':>10}{'passes ms':>11}{'ratio':>8}{'peak MB':>9}")
        for name in asked.trainers:
            with ProcessPoolExecutor(1, context) as process:  # a process of its own has a peak of its own
                rows[name] = row = process.submit(measure, name, asked).result()
            print(
                f"{name:32}{row['step_ms']:10.1f}{row['passes_ms']:11.1f}{row['ratio']:8.3f}"
                f"{row['peak_memory_mb']:9.0f}",
                flush=True,
            )
    if asked.out:
        device = torch.cuda.get_device_name() if asked.device == "cuda" else "cpu"
        record = {"command": " ".join(sys.argv), "device": device, "versions": versions(), "rows": rows}
        asked.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def measure(name: str, asked: argparse.Namespace) -> dict[str, float]:
    """Medians over the repeats of a step and of its passes, in ms, and of their ratio pair by pair."""
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = make_trainer(name, asked.device)
        trainer.initialize()
        trainer.current_epoch = trainer.num_epochs - 1  # some terms begin late
        trainer.on_train_epoch_start()
    device = trainer.device
    image = torch.randn(asked.batch, 1, *asked.patch)
    target = [
        torch.randint(0, CLASSES, (asked.batch, 1, *[size // 2**scale for size in asked.patch])).to(torch.int16)
        for scale in range(len(asked.features) - 1)
    ]
    batch = {"data": image, "target": target, "keys": [], STREAM + "target": target}
    batch |= {STREAM + view: image.clone() for view in ("weak", "strong")}
    image = image.to(device)

    def step():
        trainer.train_step(batch)

    def passes():
        trainer.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda") if device.type == "cuda" else contextlib.nullcontext():
            sum(PASSES[name](trainer, image)).backward()

    with contextlib.redirect_stdout(io.StringIO()):
        for _ in range(3):
            step()
            passes()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    pairs = [(clock(step, device), clock(passes, device)) for _ in range(asked.repeats)]
    return {
        "step_ms": statistics.median(pair[0] for pair in pairs),
        "passes_ms": statistics.median(pair[1] for pair in pairs),
        "ratio": statistics.median(pair[0] / pair[1] for pair in pairs),
        "peak_memory_mb": peak_memory_mb(device),
    }


def peak_memory_mb(device: torch.device) -> float:
    """Of the GPU; of the whole process without one (kB on Linux)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def clock(function, device: torch.device) -> float:
    """Milliseconds of one call."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - start)


if __name__ == "__main__":
    main()
