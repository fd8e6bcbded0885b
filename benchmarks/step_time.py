"""Step time of each method against the sum of its network passes, timed alone in the same run.

    python benchmarks/step_time.py [--device cuda] [--patch 32 48 64] [--features 8 16 32 64] [--batch 2] [--repeats 9]

A step is `train_step` of the trainer: losses, backward, clipping, optimizer, moving averages. Its passes are one
forward and backward of the student over all its patches and the forwards without gradient that the paper asks for.
Both are timed in turn, so that the ratio holds on a noisy machine.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from workspace import CLASSES, make_trainer, make_workspace, versions

from nnunet_ssl.data.loader import STREAM

# trainer -> (trained networks, patches that each learns from in units of `batch`, forwards of `batch` without gradient)
PASSES = {
    "nnUNetTrainerSupervised": (1, 1, 0),
    "nnUNetTrainerMeanTeacher": (1, 2, 1),
    "nnUNetTrainerUAMT": (1, 2, 9),
    "nnUNetTrainerCPS": (2, 2, 0),
    "nnUNetTrainerDHC": (2, 2, 0),
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
    with tempfile.TemporaryDirectory() as folder:
        make_workspace(Path(folder) / "work", asked.patch, asked.features, asked.batch)
        print(f"{'trainer':32}{'step ms':>10}{'passes ms':>11}{'ratio':>8}{'peak MB':>9}")
        for name in asked.trainers:
            rows[name] = row = measure(name, asked)
            print(
                f"{name:32}{row['step_ms']:10.1f}{row['passes_ms']:11.1f}{row['ratio']:8.3f}"
                f"{row['peak_memory_mb'] or float('nan'):9.0f}",
                flush=True,
            )
    if asked.out:
        device = torch.cuda.get_device_name() if asked.device == "cuda" else "cpu"
        record = {"command": " ".join(sys.argv), "device": device, "versions": versions(), "rows": rows}
        asked.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def measure(name: str, asked: argparse.Namespace) -> dict[str, float | None]:
    """Medians over the repeats of a step and of its passes, in ms, and of their ratio pair by pair."""
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = make_trainer(name, asked.device)
        trainer.initialize()
        trainer.on_train_epoch_start()
    device = trainer.device
    image = torch.randn(asked.batch, 1, *asked.patch)
    target = [
        torch.randint(0, CLASSES, (asked.batch, 1, *[size // 2**scale for size in asked.patch])).to(torch.int16)
        for scale in range(len(asked.features) - 1)
    ]
    batch = {"data": image, "target": target} | {STREAM + view: image.clone() for view in ("weak", "strong")}
    networks, streams, forwards = PASSES[name]
    trained = [trainer.network, *([trainer.method.second.network] if networks == 2 else [])]
    joint = torch.cat([image] * streams).to(device)
    single = image.to(device)

    def step():
        trainer.train_step(batch)

    def passes():
        trainer.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda") if device.type == "cuda" else contextlib.nullcontext():
            sum(scale.sum() for network in trained for scale in network(joint)).backward()
            with torch.no_grad():
                for _ in range(forwards):
                    trainer.method.teacher(single)

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
        "peak_memory_mb": torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else None,
    }


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
