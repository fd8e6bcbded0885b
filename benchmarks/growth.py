"""What grows with the number of unlabeled cases: each verb on a small pool and on one of links to the same small case.

    python benchmarks/growth.py [--cases 20 100000] [--fewer 20 500 2000] [-o FILE]

Each figure is of a process of its own: seconds by the clock and of a core after all imports, and by how much its memory
rose above what the imports take. What grows with more than the number of cases, or opens every scan, has fewer of them.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from array import array
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import SimpleITK as sitk
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from workspace import NAME, PLANS, make_trainer, make_workspace, versions

from nnunet_ssl.annotation.pool import begin_folder, score_pool
from nnunet_ssl.annotation.scores import CaseScores, ClassScores, within_pool
from nnunet_ssl.annotation.strategies import STRATEGIES, Labeled, choose
from nnunet_ssl.data.unlabeled import MANIFEST, manifest_content, plans_fingerprint, read_cases, unlabeled_folder
from nnunet_ssl.preparation.leaks import check_dataset
from nnunet_ssl.preparation.preprocessing import _sources, preprocess_dataset

CONFIGURATION, PATCH, ENDING = "3d_fullres", [16, 16, 16], ".nii.gz"
TRAINER = "nnUNetTrainerMeanTeacher"
FEATURES = 320  # of a descriptor


def start(work: Path) -> None:
    """From the trainer's construction to its first batch."""
    trainer = make_trainer(TRAINER, "cpu")
    trainer.initialize()
    trainer.on_train_start()
    next(trainer.dataloader_train)


def epoch(work: Path) -> None:
    """Of a training that has begun: the start of an epoch, a batch, and a checkpoint."""
    trainer = make_trainer(TRAINER, "cpu")
    trainer.initialize()
    trainer.on_train_start()
    yield
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    next(trainer.dataloader_train)
    trainer.save_checkpoint(str(work / "checkpoint.pth"))


def preprocess(work: Path) -> None:
    """`nnunet_ssl preprocess` where nothing is to do."""
    preprocess_dataset(999, [CONFIGURATION], PLANS, 1)


def check(work: Path) -> None:
    """`nnunet_ssl check`."""
    check_dataset(999, 1)


def listing(work: Path) -> None:
    """Of `nnunet_ssl suggest`: which cases there are, which are scored, and their scores."""
    plans = PlansManager(str(work / "preprocessed" / NAME / f"{PLANS}.json"))
    folder = unlabeled_folder(work / "preprocessed" / NAME, plans.get_configuration(CONFIGURATION))
    files = {case: str(folder / f"{case}.b2nd") for case in read_cases(folder, plans, CONFIGURATION, NAME)}
    predictor = SimpleNamespace(configuration_manager=None, dataset_json={"file_ending": ENDING})
    begin_folder(work / "scored", {})
    score_pool(SimpleNamespace(plans=plans, predictor=predictor), files, work / "scored", 1)


def suggest(work: Path) -> None:
    """Of `nnunet_ssl suggest`: densities and all strategies, on scores of their usual form."""
    count = len(json.loads((_folder(work) / MANIFEST).read_text(encoding="utf-8"))["cases"])
    rng = np.random.default_rng(0)
    pool = [
        CaseScores(
            f"unlabeled_{number}", *rng.random(2), {name: ClassScores(9, *rng.random(2)) for name in "abc"},
            array("d", rng.random(FEATURES)),
        )
        for number in range(count)
    ]  # fmt: skip
    labeled = Labeled(tuple(map(str, range(8))), rng.random((8, FEATURES)))
    yield
    pool = within_pool(pool, labeled.descriptors, rng.random(count))
    for strategy in STRATEGIES:
        choose(strategy, pool, labeled, 5)


WORK = {function.__name__: function for function in (start, epoch, preprocess, listing, suggest, check)}

FEWER = ("suggest", "check")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, nargs="+", default=[20, 100_000])
    parser.add_argument("--fewer", type=int, nargs="+", default=[20, 500, 2000], help=f"for {', '.join(FEWER)}")
    parser.add_argument("--what", nargs="+", default=[*WORK], choices=[*WORK])
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("-o", dest="out", type=Path, help="JSON file for the figures")
    asked = parser.parse_args()
    os.environ["nnUNet_n_proc_DA"] = "0"
    if asked.one:
        print(json.dumps(_measured(asked.one[0], Path(asked.one[1]))))
        return
    rows = []
    print(f"{'what':12}{'cases':>9}{'seconds':>10}{'of a core':>11}{'MB more':>10}")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "work"
        make_workspace(work, PATCH, [4, 6, 8], 2)
        write_raw(work)
        for size in sorted({*asked.cases, *asked.fewer}):
            fill_pool(work, size)
            for what in asked.what:
                if size in (asked.fewer if what in FEWER else asked.cases):
                    command = [sys.executable, __file__, "--one", what, str(work)]
                    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                    row = {"what": what, "cases": size} | json.loads(done.stdout.splitlines()[-1])
                    print(f"{what:12}{size:9}{row['seconds']:10.2f}{row['core_s']:11.2f}{row['mb']:10.0f}", flush=True)
                    rows.append(row)
    if asked.out:
        record = {"command": " ".join(sys.argv), "versions": versions(), "rows": rows}
        asked.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def write_raw(work: Path) -> None:
    """Raw images of the labeled cases and of one unlabeled case, with noise of their own."""
    raw = work / "raw" / NAME
    rng = np.random.default_rng(0)
    for name in ("imagesTr", "labelsTr", "imagesUnlabeled"):
        (raw / name).mkdir(parents=True)
    shutil.copy(work / "preprocessed" / NAME / "dataset.json", raw)
    names = [f"imagesTr/labeled_{number}_0000" for number in range(4)] + ["imagesUnlabeled/unlabeled_0_0000"]
    for name in names:
        sitk.WriteImage(
            sitk.GetImageFromArray(rng.normal(100, 10, (24,) * 3).astype(np.float32)), raw / (name + ENDING)
        )
    for number in range(4):
        label = sitk.GetImageFromArray(rng.integers(0, 3, (24,) * 3).astype(np.uint8))
        sitk.WriteImage(label, raw / f"labelsTr/labeled_{number}{ENDING}")


def fill_pool(work: Path, size: int) -> None:
    """Has raw, preprocessed and scored folders hold `size` cases: links to the first, and properties of their own."""
    images, folder, scored = work / "raw" / NAME / "imagesUnlabeled", _folder(work), work / "scored"
    plans = PlansManager(str(work / "preprocessed" / NAME / f"{PLANS}.json"))
    properties = pickle.loads((folder / "unlabeled_0.pkl").read_bytes())
    for part in ("cases", "drafts", "labeled"):
        (scored / part).mkdir(parents=True, exist_ok=True)
    record = {"instability": 0.1, "mutual_information": 0.1, "draft_digest": "0", "descriptor": [0.5] * FEATURES}
    record["by_class"] = {name: {"voxels": 9, "unsure": 0.1, "entropy": 0.1} for name in "abc"}
    firsts = (scored / "cases" / "unlabeled_0.json", scored / "cases" / "unlabeled_0.npz")
    for file in (*firsts, scored / "drafts" / f"unlabeled_0{ENDING}"):
        file.write_text(json.dumps(record), encoding="utf-8")
    cases = [f"unlabeled_{number}" for number in range(size)]
    for case in cases:
        image = images / f"{case}_0000{ENDING}"
        for file in (image, folder / f"{case}.b2nd", *(f.with_name(case + f.suffix) for f in firsts),
                     scored / "drafts" / f"{case}{ENDING}"):  # fmt: skip
            if not os.path.lexists(file):
                file.symlink_to(file.name.replace(f"{case}_0000", "unlabeled_0_0000").replace(case, "unlabeled_0"))
        mark = {"fingerprint": plans_fingerprint(plans, CONFIGURATION), "sources": _sources([image])}
        (folder / f"{case}.pkl").write_bytes(pickle.dumps(properties | {"nnunet_ssl": mark}))
    (folder / MANIFEST).write_text(json.dumps(manifest_content(plans, CONFIGURATION, cases)), encoding="utf-8")


def _folder(work: Path) -> Path:
    return work / "preprocessed" / NAME / f"{PLANS}_{CONFIGURATION}_unlabeled"


def _measured(what: str, work: Path) -> dict[str, float]:
    """Seconds and MB of one of `WORK`; of a generator what comes after its first yield."""
    for kind in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{kind}"] = str(work / kind)
    with contextlib.redirect_stdout(io.StringIO()):
        before = _peak()
        begin = _clocks()
        if (made := WORK[what](work)) is not None:
            next(made)
            before, begin = _peak(), _clocks()
            next(made, None)
        seconds, core = (now - then for now, then in zip(_clocks(), begin, strict=True))
    return {"seconds": seconds, "core_s": core, "mb": max(_peak() - before, 0)}


def _clocks() -> tuple[float, float]:
    """Seconds of the clock and of processor, workers that have ended included."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter(), time.process_time() + children.ru_utime + children.ru_stime


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


if __name__ == "__main__":
    main()
