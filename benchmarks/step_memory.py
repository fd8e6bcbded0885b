"""The memory of a step that `nnunet_ssl estimate` computes, against what the process of a real step takes.

    python benchmarks/step_memory.py [--patch 32x32x32 48x48x48] [--features 16 32 64 128] [--trainers ...]

Each row has a process of its own. Measured is by how much its resident memory rises within the second step, with an
allocator that gives back what is freed; counted, by how much what tensors hold rises in the same step without values.
Kernels' own workspaces and what the libraries keep are in the first and not in the second.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from step_time import make_batch, ready_trainer
from torch import Tensor
from torch.utils._pytree import tree_leaves
from workspace import make_workspace, versions

from nnunet_ssl.estimate.memory import state_of, step_bytes
from nnunet_ssl.listing import PREFIX

TRAINERS = ("Supervised", "MeanTeacher", "CPS", "BCP", "MCNet", "URPC", "UAMT", "DHC")
GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "OMP_NUM_THREADS": "1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--patch", nargs="+", default=["32x32x32", "32x48x64", "48x48x48"])
    parser.add_argument("--features", type=int, nargs="+", default=[16, 32, 64, 128])
    parser.add_argument("--trainers", nargs="+", default=TRAINERS)
    parser.add_argument("-o", dest="out", type=Path, help="JSON file for the figures")
    asked = parser.parse_args()
    os.environ.update(GIVES_BACK)  # read when a process starts
    rows, context = [], multiprocessing.get_context("spawn")
    print(f"{'trainer':32}{'patch':>12}{'counted MB':>12}{'measured MB':>13}{'ratio':>8}")
    for patch in asked.patch:
        with tempfile.TemporaryDirectory() as folder:
            sides = [int(side) for side in patch.split("x")]
            make_workspace(Path(folder) / "work", sides, asked.features, 2)
            for name in asked.trainers:
                with ProcessPoolExecutor(1, context) as process:
                    row = process.submit(measure, PREFIX + name, sides, len(asked.features)).result()
                rows.append(row)
                ratio = row["counted_mb"] / row["measured_mb"]
                print(
                    f"{row['trainer']:32}{patch:>12}{row['counted_mb']:12.1f}{row['measured_mb']:13.1f}{ratio:8.3f}",
                    flush=True,
                )
    if asked.out:
        record = {"command": " ".join(sys.argv), "device": "cpu", "versions": versions(), "rows": rows}
        asked.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def measure(name: str, patch: list[int], stages: int) -> dict:
    """By how much the memory rises within a step, counted and measured."""
    trainer = ready_trainer(name, "cpu")
    batch = make_batch(trainer, patch, stages, 2)
    trainer.train_step(batch)
    trainer.optimizer.zero_grad(set_to_none=True)
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    trainer.train_step(batch)
    measured = _resident("VmHWM") - before
    trainer.optimizer.zero_grad(set_to_none=True)
    (counted,) = step_bytes(trainer, batch)
    return {
        "trainer": name,
        "patch": patch,
        "counted_mb": (counted - _held(trainer, batch)) / 2**20,
        "measured_mb": measured / 2**10,
    }


def _held(trainer, batch: dict) -> int:
    """Bytes of what stays between two steps."""
    tensors = [tensor for tensor in [*state_of(trainer), *tree_leaves(batch)] if isinstance(tensor, Tensor)]
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def _resident(what: str) -> int:
    """Of this process, in KiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{what}:"))


if __name__ == "__main__":
    main()
