"""Step time of each method against the sum of its network passes, timed alone in the same run.

    python benchmarks/step_time.py [--device cuda] [--patch 32 48 48] [--features 8 16 32 64] [--batch 2] [--repeats 5]

A step is `train_step` of the trainer: losses, backward, clipping, optimizer, moving averages. Its passes are those of
the method's facts: forwards and backwards of its networks that the paper asks for, over as many patches. Both are timed
in turn; on a CPU that is processor time of one thread, so that the ratio holds on a machine that others use, too.
Memory is the most that tensors take at once in a step: weights, optimizer and all that a step makes. Beside it stands
how many times that of nnU-Net's own step it is.

With `-o FILE` a row that stands there is not measured again.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import accumulate, chain
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from workspace import CLASSES, make_trainer, make_workspace, sized_parser, versions

from nnunet_ssl.catalog import PREFIX, read_catalog
from nnunet_ssl.data.loader import STREAM
from nnunet_ssl.facts import STUDENT, Pass
from nnunet_ssl.networks.critic import Critic
from nnunet_ssl.networks.discriminator import Discriminator
from nnunet_ssl.networks.net import Output
from nnunet_ssl.networks.projection import VoxelHead
from nnunet_ssl.training.configured import ConfiguredTrainer

Row = dict[str, float | str]
COLUMNS = {  # key: title, format
    "step_ms": ("step ms", ".1f"),
    "passes_ms": ("passes ms", ".1f"),
    "ratio": ("ratio", ".3f"),
    "memory_mb": ("memory MB", ".1f"),
}


def trainers() -> dict[str, list[Pass]]:
    """The passes of a step, by trainer: of nnU-Net alone, and of each method."""
    alone = {f"{PREFIX}Supervised": [Pass("learn", STUDENT, 1)]}
    return alone | {PREFIX + entry.name: entry.facts.passes for entry in read_catalog()}


def make_passes(trainer: ConfiguredTrainer, image: Tensor, passes: Sequence[Pass]) -> list[Tensor]:
    """Losses to go backward from, in place of the trainer's own; what teaches the student nothing is done at once.

    Args:
        trainer: ready for a step.
        image: a batch of patches, (B, channels, *spatial).
        passes: see `nnunet_ssl/methods/facts.yaml`; of decoders, heads and discriminators after the student's.
    """
    losses, output = [], None
    student = trainer.network if trainer.method is None else trainer.net
    for kind, name, batches in passes:
        network = student if name == STUDENT else getattr(trainer.method, name)
        images = torch.cat([image] * batches)
        if kind == "look":
            seen = output.probs[-len(image) :] if isinstance(network, Critic) else image
            with torch.no_grad():
                for _ in range(batches):
                    network(seen)
        elif isinstance(network, nn.ModuleList):  # decoders, of what the student has just encoded
            skips = [skip[-len(images) :] for skip in output.features["skips"]]
            losses += [total(decoder(skips)) for decoder in network]
        elif isinstance(network, VoxelHead):  # of what the student's own head has just read
            losses.append(total(network(output.features["head"][-len(images) :])))
        elif isinstance(network, Discriminator | Critic):  # of what has just been predicted
            probs = output.probs[-len(images) :]
            further = (images,) if isinstance(network, Discriminator) else ()
            if kind == "trace":
                losses.append(network(probs, *further).sum())
            else:
                network.requires_grad_(True)
                network(probs.detach(), *further).sum().backward()
                network.requires_grad_(False)
        elif kind == "trace":
            images.requires_grad_()
            torch.autograd.grad(network(images).logits.sum(), images)
        else:
            output = network(images)
            losses.append(total(output))
    return losses


def total(output: Output | list[Tensor] | Tensor) -> Tensor:
    """A scalar of all scales that a network gives."""
    scales = output.pyramid if isinstance(output, Output) else output
    return sum(scale.sum() for scale in (scales if isinstance(scales, list) else [scales]))


def main() -> None:
    parser = sized_parser(__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    known = list(trainers())
    parser.add_argument("--trainers", nargs="+", default=known, choices=known)
    parser.add_argument("-o", dest="out", type=Path, help="JSON file for the figures")
    asked = parser.parse_args()
    measure_rows(asked, asked.trainers, measure, COLUMNS)


def measure_rows(
    asked: argparse.Namespace,
    names: Sequence[str],
    measure: Callable[[str, argparse.Namespace], Row],
    columns: dict[str, tuple[str, str]],
) -> None:
    """Measures a row of each name on a workspace of one thread, and prints it.

    With `-o FILE` each is written as soon as it is measured, and one that stands there is not measured again.
    """
    torch.set_num_threads(1)
    device = torch.cuda.get_device_name() if asked.device == "cuda" else "cpu, one thread, processor time"
    record = {"command": " ".join(sys.argv), "device": device, "versions": versions(), "rows": {}}
    if asked.out and asked.out.exists():
        record["rows"] = json.loads(asked.out.read_text(encoding="utf-8"))["rows"]
    with tempfile.TemporaryDirectory() as folder:
        make_workspace(Path(folder) / "work", asked.patch, asked.features, asked.batch)
        print(f"{'':32}" + "".join(f"{title:>14}" for title, _ in columns.values()))
        for name in names:
            if name not in record["rows"]:
                record["rows"][name] = measure(name, asked)
                if asked.out:
                    asked.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            row = record["rows"][name]
            print(f"{name:32}" + "".join(f"{row[key]:>14{form}}" for key, (_, form) in columns.items()), flush=True)


def measure(name: str, asked: argparse.Namespace) -> Row:
    """Of a step and of its passes in ms, their ratio, and memory in MB."""
    gc.collect()
    trainer = ready_trainer(name, asked.device)
    device, passes_asked = trainer.device, trainers()[name]
    batch = make_batch(trainer, asked.patch, len(asked.features), asked.batch)
    image = batch["data"].to(device)

    def step():
        trainer.train_step(batch)

    def passes():
        trainer.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda") if device.type == "cuda" else contextlib.nullcontext():
            sum(make_passes(trainer, image, passes_asked)).backward()

    step_ms, passes_ms, ratio = timed_in_turn(step, passes, device, asked.repeats)
    return {"step_ms": step_ms, "passes_ms": passes_ms, "ratio": ratio, "memory_mb": memory_mb(step, trainer)}


def timed_in_turn(
    first: Callable[[], None], second: Callable[[], None], device: torch.device, repeats: int
) -> tuple[float, float, float]:
    """Medians over the repeats of both, in ms, and of the ratio of the first to the second, pair by pair."""
    with contextlib.redirect_stdout(io.StringIO()):
        for _ in range(2):
            first()
            second()
    pairs = [(clock(first, device), clock(second, device)) for _ in range(repeats)]
    return (
        statistics.median(pair[0] for pair in pairs),
        statistics.median(pair[1] for pair in pairs),
        statistics.median(pair[0] / pair[1] for pair in pairs),
    )


def ready_trainer(name: str, device: str) -> ConfiguredTrainer:
    """A trainer on the workspace in its last epoch, for some terms begin late."""
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = make_trainer(name, device)
        trainer.initialize()
        trainer.current_epoch = trainer.num_epochs - 1
        trainer.on_train_epoch_start()
    return trainer


def make_batch(trainer: ConfiguredTrainer, patch: Sequence[int], stages: int, size: int) -> dict:
    """Random patches and labels of both streams, as the loaders give them."""
    image = torch.randn(size, 1, *patch)
    target = [
        torch.randint(0, CLASSES, (size, 1, *[length // 2**scale for length in patch])).to(torch.int16)
        for scale in range(stages - 1)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        keys = trainer.do_split()[0][:1] * size  # all of one case, for memories
    batch = {"data": image, "target": target, "keys": keys, STREAM + "target": target}
    return batch | {STREAM + view: image.clone() for view in ("weak", "strong")}


def memory_mb(step: Callable[[], None], trainer: ConfiguredTrainer) -> float:
    """The most that tensors take at once within a step, those that stay from step to step among them."""
    trainer.optimizer.zero_grad(set_to_none=True)
    if trainer.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() / 2**20
    step()  # leaves gradients, which the next one gives back: not counted twice
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    made = max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))
    return (made + sum(tensor.nbytes for tensor in lasting_tensors(trainer))) / 2**20


def lasting_tensors(trainer: ConfiguredTrainer) -> list[Tensor]:
    """Weights and buffers of all networks, each once, and what the optimizers keep of them."""
    modules = [trainer.network] if trainer.method is None else [trainer.network, trainer.method]
    tensors = chain.from_iterable(chain(module.parameters(), module.buffers()) for module in modules)
    optimizers = [trainer.optimizer] if trainer.method is None else trainer.optimizers
    states = (value for optimizer in optimizers for state in optimizer.state.values() for value in state.values())
    return list({id(tensor): tensor for tensor in chain(tensors, states) if isinstance(tensor, Tensor)}.values())


def clock(function: Callable[[], None], device: torch.device) -> float:
    """Milliseconds of one call: on a CPU of processor time."""
    if device.type != "cuda":
        start = time.process_time()
        function()
        return 1000 * (time.process_time() - start)
    torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - start)


if __name__ == "__main__":
    main()
