"""Cost of the unlabeled stream: core-seconds of its batches beside nnU-Net's own, and a pool of 20,000 cases.

    python benchmarks/loader_time.py [--patches 128x128x128 80x112x112 512x512] [--repeats 30] [--pool 20000] [-o FILE]

One loader works as in a process of nnU-Net's, on one thread, and its processor time is counted, so that other work on
the machine does not matter. Chance decides what nnU-Net does to a patch, and a mean over few batches is not the cost.
So batches with and without a turn (rotation or scaling) are timed in turn without changes of intensity, and each of
these apart: `expected_s` has all as often as nnU-Net draws them. `drawn_s` is the mean under its own draws, as a check.

The pool of many cases (links to a few files) is compared with a pool of 20 in start-up time and memory, each in a fresh
process.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import blosc2
import torch
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from workspace import NAME, PLANS, make_trainer, make_workspace, versions

from nnunet_ssl.data.loader import TwoStreamLoader, UnlabeledLoader, UnlabeledPool
from nnunet_ssl.data.views import Views

TRAINER = "nnUNetTrainerFixMatch"  # weak and strong views
BATCHES = {3: 2, 2: 12}  # patches in a batch, by the axes of a patch
STEP_S = 0.1  # of a step on an H100
STOCK = "stock labeled"
ON_GPU = " (strong on a GPU)"
VIEWS = {  # of the kinds of unlabeled batches
    "weak": ("weak",),
    "weak, strong": ("weak", "strong"),
    "weak, strong" + ON_GPU: ("weak", "strong"),
    "strong, target": ("strong", "target"),
    "strong, target" + ON_GPU: ("strong", "target"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--patches", nargs="*", default=["128x128x128", "80x112x112", "512x512"])
    parser.add_argument("--repeats", type=int, default=30, help="batches of each kind under nnU-Net's draws")
    parser.add_argument("--pool", type=int, default=20000, help="cases; 0 leaves the pools out")
    parser.add_argument("--start-only", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("-o", dest="out", type=Path, help="JSON file for the figures")
    asked = parser.parse_args()
    os.environ["nnUNet_n_proc_DA"] = "0"
    torch.set_num_threads(1)
    if asked.start_only:
        start(asked.start_only)
        return

    figures = {}
    for patch in asked.patches:
        sizes = [int(size) for size in patch.split("x")]
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:  # nnU-Net's folders are its own
            figures[patch] = process.submit(costs, sizes, asked.repeats).result()
        print(table(patch, figures[patch]), flush=True)
    if asked.pool:
        with tempfile.TemporaryDirectory() as folder:
            make_workspace(Path(folder) / "work", [32, 48, 64], [8, 16, 32], 2)
            for size in (20, asked.pool):
                figures[f"pool of {size}"] = best = start_of_pool(Path(folder) / "work", size)
                print(
                    f"pool of {size:6d}: start {best['start_s']:.2f} s, peak memory {best['peak_mb']:.0f} MB",
                    flush=True,
                )
    if asked.out:
        record = {"command": " ".join(sys.argv), "versions": versions(), "rows": figures}
        asked.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


# ---------------------------------------------------------------------- batches


def costs(patch: list[int], repeats: int) -> dict:
    """Core-seconds: {"batch": patches, "kinds": of a batch of each, "changes": of one patch for each change}."""
    os.environ["nnUNet_n_proc_DA"] = "0"
    torch.set_num_threads(1)
    batch = BATCHES[len(patch)]
    with tempfile.TemporaryDirectory() as folder:
        loaders = make_loaders(Path(folder) / "work", patch, batch)
        transforms = loaders[STOCK].transforms
        changes = costs_of_changes(transforms, patch, repeats)
        seconds = {kind: defaultdict(list) for kind in loaders}
        for _ in range(max(3, repeats // 4)):
            for name, turned in (("as_it_is_s", False), ("turned_s", True)):
                with without_chance(transforms, turned):
                    for kind, loader in loaders.items():
                        seconds[kind][name].append(core_seconds(loader.generate_train_batch))
        for _ in range(repeats):
            for kind, loader in loaders.items():
                seconds[kind]["drawn_s"].append(core_seconds(loader.generate_train_batch))
    spatial = spatial_of(transforms)
    often = 1 - (1 - spatial.p_rotation) * (1 - spatial.p_scaling)
    drawn = batch * sum(change["probability"] * change["s"] for change in changes.values())
    rows = {kind: {name: statistics.mean(times) for name, times in row.items()} for kind, row in seconds.items()}
    for kind, row in rows.items():
        changed = drawn if kind == STOCK or ("strong" in VIEWS[kind] and ON_GPU not in kind) else 0.0
        row["expected_s"] = (1 - often) * row["as_it_is_s"] + often * row["turned_s"] + changed
        row["over_stock"] = row["expected_s"] / rows[STOCK]["expected_s"]
    return {"batch": batch, "kinds": rows, "changes": changes}


def make_loaders(work: Path, patch: list[int], batch: int) -> dict:
    """nnU-Net's loader, and one of unlabeled patches for each choice of views, on data of their own."""
    stages = min(6 if len(patch) == 3 else 8, *[(size & -size).bit_length() for size in patch])
    make_workspace(work, patch, [4] * stages, batch)
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = make_trainer(TRAINER, "cpu")
        trainer.initialize()
        both: TwoStreamLoader = trainer.get_dataloaders()[0].data_loader
    labeled, pool = both.labeled, both.unlabeled._data
    with_labels = UnlabeledPool(pool.files, labels=work / "pseudo_labels")
    with_labels.labels.mkdir()
    cases = nnUNetDatasetBlosc2(trainer.preprocessed_dataset_folder)
    for case, like in zip(pool.identifiers, cases.identifiers, strict=True):
        blosc2.asarray(cases.load_case(like)[1][0][:], urlpath=str(with_labels.labels / f"{case}.b2nd"), mode="w")
    made = {STOCK: labeled}
    for kind, names in VIEWS.items():
        views = Views(labeled.transforms, names)
        if ON_GPU in kind:
            views.hand_over_intensity()
        drawn_from = with_labels if "target" in names else pool
        made[kind] = UnlabeledLoader(drawn_from, batch, labeled, views, trainer.label_manager)
    return made


def costs_of_changes(transforms: ComposeTransforms, patch: list[int], repeats: int) -> dict[str, dict[str, float]]:
    """Of each change of intensity, how often nnU-Net makes it and the core-seconds that it then takes on one patch."""
    found = {}
    image = torch.randn(1, *patch)
    for number, random in enumerate(Views(transforms, ("strong",)).intensity):
        if isinstance(random.transform, GaussianBlurTransform):
            random.transform.benchmark_num_runs = 1  # at first it tries two ways for each width of its kernel
            for _ in range(25):
                random.transform(image=image.clone())
        times = [core_seconds(lambda change=random.transform: change(image=image)) for _ in range(max(10, repeats))]
        name = f"{number + 1} {type(random.transform).__name__.removesuffix('Transform')}"
        found[name] = {"probability": random.apply_probability, "s": statistics.mean(times)}
    return found


@contextlib.contextmanager
def without_chance(transforms: ComposeTransforms, turned: bool) -> Iterator[None]:
    """Within the context every patch is turned, or none is, and no grey level is changed."""
    spatial, changes = spatial_of(transforms), Views(transforms, ("strong",)).intensity
    before = spatial.p_rotation, spatial.p_scaling, [change.apply_probability for change in changes]
    spatial.p_rotation = spatial.p_scaling = float(turned)
    for change in changes:
        change.apply_probability = 0.0
    try:
        yield
    finally:
        spatial.p_rotation, spatial.p_scaling = before[:2]
        for change, probability in zip(changes, before[2], strict=True):
            change.apply_probability = probability


def spatial_of(transforms: ComposeTransforms) -> SpatialTransform:
    """nnU-Net's rotation and scaling."""
    return next(transform for transform in transforms.transforms if isinstance(transform, SpatialTransform))


def core_seconds(make: Callable[[], object]) -> float:
    """Processor time of this process, all of its threads."""
    begin = time.process_time()
    make()
    return time.process_time() - begin


def table(patch: str, found: dict) -> str:
    """The figures as text."""
    rows, stock = found["kinds"], found["kinds"][STOCK]["expected_s"]
    lines = [f"{patch}, batch of {found['batch']}: core-seconds of a batch"]
    lines.append(
        f"{'':32}{'as it is':>10}{'turned':>10}{'expected':>10}{'drawn':>10}{'/ stock':>10}{'two / 2':>10}{'cores':>8}"
    )
    for kind, row in rows.items():
        both = stock + (row["expected_s"] if kind != STOCK else 0.0)
        figures = [row[name] for name in ("as_it_is_s", "turned_s", "expected_s", "drawn_s", "over_stock")]
        lines.append(
            f"{kind:32}"
            + "".join(f"{figure:10.3f}" for figure in figures)
            + f"{both / stock / 2:10.3f}{both / STEP_S:8.1f}"
        )
    for name, change in found["changes"].items():
        lines.append(f"  {name:30} probability {change['probability']:.2f}, {1000 * change['s']:8.1f} ms on a patch")
    return "\n".join(lines)


# ---------------------------------------------------------------------- pools


def start_of_pool(work: Path, size: int) -> dict[str, float]:
    """Medians over three fresh processes of start-up time and peak memory, with a pool of `size` cases."""
    fill_pool(work, size)
    command = [sys.executable, __file__, "--start-only", str(work)]
    runs = [json.loads(subprocess.check_output(command, text=True).splitlines()[-1]) for _ in range(3)]
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


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
