"""Time of `nnunet_ssl suggest` over that of `nnUNetv2_predict` on the same scans with the same model.

Makes a phantom dataset, trains for a moment, and runs both commands in turn:
nnU-Net's preprocesses, predicts with mirroring and writes segmentations; ours finds its scans preprocessed, predicts in
the same way, scores, and writes drafts and the page. Time by the clock and, steadier on a busy machine, processor time;
whole commands, with their imports. Some minutes on two cores::

    python benchmarks/suggest_time.py --cases 6 --repeats 2 [-o FILE]
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from accuracy import DATASET, DATASET_ID, PLANS, Workspace, prepare
from preprocess_time import run
from suites import Suite
from workspace import sized_parser, versions

THEIRS, OURS = "nnUNetv2_predict", "nnunet_ssl suggest"
MOMENT = "{num_epochs: 1, num_iterations_per_epoch: 1, num_val_iterations_per_epoch: 1, seed: 0}"


def main() -> None:
    parser = sized_parser(__doc__.split("\n")[0], (32, 64, 64), (16, 32, 64, 128))
    parser.add_argument("--cases", type=int, default=6)
    parser.add_argument("--shape", type=int, nargs=3, default=[64, 96, 96], help="voxels of a scan")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("-o", dest="out", type=Path, help="JSON file for the figures")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        suite = suite_of(asked.cases, asked.shape, asked.patch, asked.features, asked.batch)
        rows = {
            what: figures(times)
            for what, times in zip(
                ("clock", "processor"), measure(suite, Path(folder), asked.device, asked.repeats), strict=True
            )
        }
    for what, row in rows.items():
        print(f"{what + ' time':<16}" + "".join(f"{name} {row[name]:.1f} s, " for name in (THEIRS, OURS)), end="")
        print(f"ratio {row['ratio']:.2f}")
    if asked.out:
        record = {"command": " ".join(sys.argv), "versions": versions(), "cases": asked.cases, "rows": rows}
        asked.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def suite_of(cases: int, shape: Sequence[int], patch: Sequence[int], features: Sequence[int], batch: int) -> Suite:
    """A phantom with two labeled scans and as many test scans as are to be predicted."""
    return Suite(
        name="suggest", data="phantom", classes=("liver", "kidney", "vessel", "gland"), configuration="3d_fullres",
        spacing=None, features=tuple(features), patch=tuple(patch), batch=batch, iterations=1, iterations_per_epoch=1,
        labeled=(2,), units=2, test=cases, phantom=(("shape", tuple(shape)),),
    )  # fmt: skip


def measure(suite: Suite, folder: Path, device: str, repeats: int) -> tuple[dict[str, list[float]], ...]:
    """Seconds by the clock, and of processors, of each run of both commands."""
    workspace = Workspace(suite, folder, device)
    prepare(workspace, None)
    scans = workspace.raw / "imagesUnlabeled"
    scans.rmdir()  # empty
    (workspace.raw / "imagesTs").rename(scans)
    for kind in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{kind}"] = str(folder / f"nnUNet_{kind}")
    os.environ |= {"nnUNet_ssl_config": MOMENT, "nnUNet_compile": "false", "OMP_WAIT_POLICY": "PASSIVE"}
    named = ("-d", str(DATASET_ID), "-c", suite.configuration, "-p", PLANS)
    run("nnunet_ssl preprocess", *named)
    model = ("-tr", "nnUNetTrainerSupervised", "-p", PLANS, "-device", device)
    run("nnUNetv2_train", DATASET, suite.configuration, "0", *model)
    commands = {
        THEIRS: (*named, "-i", str(scans), "-npp", "1", "-nps", "1"),
        OURS: (*named, "-np", "1"),
    }
    clock: dict[str, list[float]] = {command: [] for command in commands}
    processor: dict[str, list[float]] = {command: [] for command in commands}
    for number in range(repeats):
        for command, arguments in commands.items():
            out = folder / f"{command.split()[-1]}_{number}"
            seconds = run(command, *arguments, *model[:2], "-f", "0", "-device", device, "-o", str(out))
            for kept, each in zip((clock, processor), seconds, strict=True):
                kept[command].append(each)
    return clock, processor


def figures(times: dict[str, list[float]]) -> dict[str, float]:
    """Of both commands the median, and ours over theirs."""
    medians = {command: statistics.median(values) for command, values in times.items()}
    return medians | {"ratio": medians[OURS] / medians[THEIRS]}


if __name__ == "__main__":
    main()
