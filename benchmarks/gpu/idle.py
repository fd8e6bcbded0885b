"""How much of a step the device waits for its batch, with nnU-Net's loader processes at work.

    python benchmarks/gpu/idle.py --device cuda --patch 80 112 112 --features 32 64 128 256 320 -o FILE

`nnUNet_n_proc_DA` says how many processes there are. A step ends when the device has done it, so that only the loaders
are waited for.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from step_time import ready_trainer
from workspace import make_workspace, sized_parser, versions


def main() -> None:
    parser = sized_parser(__doc__.split("\n")[0], (80, 112, 112), (32, 64, 128, 256, 320))
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--trainer", default="nnUNetTrainerSupervised")
    parser.add_argument("-o", dest="out", type=Path, required=True, help="JSON file for the figures")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_workspace(Path(folder) / "work", asked.patch, asked.features, asked.batch)
        row = measure(asked)
    print(f"{asked.trainer}: step {row['step_ms']:.1f} ms, wait {row['wait_ms']:.1f} ms, idle {row['idle']:.3f}")
    record = {"command": " ".join(sys.argv), "versions": versions(), "rows": {asked.trainer: row}}
    asked.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def measure(asked: argparse.Namespace) -> dict[str, float | str]:
    """Means over the steps of the time for a step and of the wait for its batch, in ms, and the wait's share."""
    trainer = ready_trainer(asked.trainer, asked.device)
    loader, validation = trainer.get_dataloaders()
    on_gpu = asked.device == "cuda"
    waits, steps = [], []
    for _ in range(asked.steps + 5):
        begin = time.perf_counter()
        batch = next(loader)
        given = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            trainer.train_step(batch)
        if on_gpu:
            torch.cuda.synchronize()
        waits.append(given - begin)
        steps.append(time.perf_counter() - given)
    for workers in (loader, validation):
        if hasattr(workers, "end_at_once"):  # else they are made in this process
            workers.end_at_once()
    wait, step = (
        1000 * sum(times[5:]) / asked.steps for times in (waits, steps)
    )  # the first compile, from a full queue
    return {
        "step_ms": step,
        "wait_ms": wait,
        "idle": wait / (wait + step),
        "workers": os.environ.get("nnUNet_n_proc_DA", "nnU-Net's"),
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
    }


if __name__ == "__main__":
    main()
