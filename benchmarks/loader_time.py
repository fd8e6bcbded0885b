"""Cost of the unlabeled stream: a two-stream batch, and a pool of 20,000 cases.

    python benchmarks/loader_time.py [--patch 32 48 64] [--batch 2] [--repeats 40] [--pool 20000]

A two-stream batch is timed against a labeled batch plus another of nnU-Net's own loader, in turn, in one process. The
pool of many cases (links to a few files) is compared with a pool of 20 in start-up time and memory, each in a fresh
process.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from workspace import NAME, PLANS, make_trainer, make_workspace, versions

TRAINER = "nnUNetTrainerMeanTeacher"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--patch", type=int, nargs="+", default=[32, 48, 64])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--pool", type=int, default=20000)
    parser.add_argument("--start-only", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("-o", dest="out", type=Path, help="JSON file for the figures")
    asked = parser.parse_args()
    os.environ["nnUNet_n_proc_DA"] = "0"
    torch.set_num_threads(1)
    if asked.start_only:
        start(asked.start_only)
        return

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "work"
        make_workspace(work, asked.patch, [8, 16, 32], asked.batch)
        figures = {"batch": batches(asked.repeats)}
        for size in (20, asked.pool):
            fill_pool(work, size)
            command = [sys.executable, __file__, "--start-only", str(work)]
            runs = [json.loads(subprocess.check_output(command, text=True).splitlines()[-1]) for _ in range(3)]
            best = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
            figures[f"pool of {size}"] = best
            print(f"pool of {size:6d}: start {best['start_s']:.2f} s, peak memory {best['peak_mb']:.0f} MB", flush=True)
    if asked.out:
        record = {"command": " ".join(sys.argv), "versions": versions(), "rows": figures}
        asked.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def batches(repeats: int) -> dict[str, float]:
    """Median time of a two-stream batch over that of two stock batches, per view setting."""
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = make_trainer(TRAINER, "cpu")
        trainer.initialize()
        both = trainer.get_dataloaders()[0].data_loader
    pairs = []
    for _ in range(repeats):
        begin = time.perf_counter()
        next(both)
        middle = time.perf_counter()
        next(both.labeled)
        next(both.labeled)
        pairs.append((middle - begin, time.perf_counter() - middle))
    ours, stock = (1000 * statistics.mean(column) for column in zip(*pairs, strict=True))
    print(f"two-stream batch {ours:.1f} ms, two stock batches {stock:.1f} ms, ratio {ours / stock:.3f}", flush=True)
    return {"two_stream_ms": ours, "two_stock_ms": stock, "ratio": ours / stock}


def fill_pool(work: Path, size: int) -> None:
    """Makes the unlabeled folder hold `size` cases: hard links to the first."""
    folder = work / "preprocessed" / NAME / f"{PLANS}_3d_fullres_unlabeled"
    manifest = json.loads((folder / "unlabeled.json").read_text(encoding="utf-8"))
    manifest["cases"] = [f"unlabeled_{number}" for number in range(size)]
    for case in manifest["cases"]:
        for ending in (".b2nd", ".pkl"):
            if not (folder / f"{case}{ending}").exists():
                os.link(folder / f"unlabeled_0{ending}", folder / f"{case}{ending}")
    (folder / "unlabeled.json").write_text(json.dumps(manifest), encoding="utf-8")


def start(work: Path) -> None:
    """Time and peak memory from the trainer's construction to its first batch."""
    for kind in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{kind}"] = str(work / kind)
    begin = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = make_trainer(TRAINER, "cpu")
        trainer.initialize()
        loader, _ = trainer.get_dataloaders()
        next(loader)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"start_s": time.perf_counter() - begin, "peak_mb": peak}))


if __name__ == "__main__":
    main()
