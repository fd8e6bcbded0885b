"""Time of ``nnunet_ssl preprocess`` over that of ``nnUNetv2_preprocess`` on the same images.

Makes a phantom dataset whose unlabeled images are copies of the labeled ones, runs both commands in turn several times
and prints the medians as a table and as JSON: time by the clock and, steadier on a busy machine, processor time. The
images are floats with a background of zeros, the slowest kind: for these alone a file is read a second time for the NaN
that SimpleITK hides. About a minute on two cores::

    python benchmarks/preprocess_time.py --cases 8 --size 112 --repeats 3
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk

NAME = "Dataset001_Phantom"
BIN = Path(sys.executable).parent
THEIRS, OURS = "nnUNetv2_preprocess", "nnunet_ssl preprocess"


def write_dataset(folder: Path, cases: int, size: int) -> None:
    """Smooth noise in a ball on zeros, float32, at three spacings so that two thirds of the cases are resampled."""
    rng = np.random.default_rng(0)
    for name in ("imagesTr", "labelsTr", "imagesUnlabeled"):
        (folder / name).mkdir(parents=True)
    axes = np.meshgrid(*[np.linspace(-1, 1, size)] * 3, indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in axes))
    for i in range(cases):
        voxels = rng.normal(100, 10, radius.shape).astype(np.float32) * (radius < 0.95)
        label = (radius < 0.4).astype(np.uint8)
        for array, names in (
            (voxels, (f"imagesTr/a_{i:03d}_0000", f"imagesUnlabeled/u_{i:03d}_0000")),
            (label, (f"labelsTr/a_{i:03d}",)),
        ):
            image = sitk.GetImageFromArray(array)
            image.SetSpacing((1.0, 1.0, (0.9, 1.0, 1.1)[i % 3]))
            for name in names:
                sitk.WriteImage(image, folder / f"{name}.nii.gz")
    content = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "ball": 1},
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")


def processor_seconds() -> float:
    """Processor time of all finished child processes, workers of the commands included."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run(command: str, *arguments: str) -> tuple[float, float]:
    """Seconds by the clock and of processor that the command takes; its output is shown only if it fails."""
    program, *rest = command.split()
    start, processor_start = time.perf_counter(), processor_seconds()
    done = subprocess.run([BIN / program, *rest, *arguments], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command} failed:\n{done.stdout}{done.stderr}")
    return time.perf_counter() - start, processor_seconds() - processor_start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=8)
    parser.add_argument("--size", type=int, default=112, help="voxels along each axis")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()

    seconds: dict[str, list[tuple[float, float]]] = {THEIRS: [], OURS: []}
    with tempfile.TemporaryDirectory() as root:
        for kind in ("raw", "preprocessed", "results"):
            os.environ[f"nnUNet_{kind}"] = str(Path(root, kind))
            Path(root, kind).mkdir()
        write_dataset(Path(root, "raw", NAME), arguments.cases, arguments.size)
        run("nnUNetv2_plan_and_preprocess", "-d", "1", "-npfp", "2", "--no_pp")
        base = Path(root, "preprocessed", NAME)
        for _ in range(arguments.repeats):
            for command in seconds:
                shutil.rmtree(base / "nnUNetPlans_3d_fullres_unlabeled", ignore_errors=True)
                seconds[command].append(run(command, "-d", "1", "-c", "3d_fullres", "-np", str(arguments.processes)))

    result: dict = {**vars(arguments), "cpus": os.cpu_count()}
    for kind, measure in enumerate(("clock", "processor")):
        times = {command: [run[kind] for run in runs] for command, runs in seconds.items()}
        medians = {command: statistics.median(values) for command, values in times.items()}
        print(f"{measure + ' time':<24}{'median [s]':>12}  all runs [s]")
        for command, values in times.items():
            print(f"{command:<24}{medians[command]:>12.2f}  {' '.join(f'{t:.2f}' for t in values)}")
        result[measure] = {"seconds": times, "ratio": medians[OURS] / medians[THEIRS]}
        print(f"ratio {result[measure]['ratio']:.3f}\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
