"""Tiny networks and prepared datasets for the tests."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import zipfile
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import distributed as dist

from nnunet_ssl.kinds import Classes, Kind, Regions
from nnunet_ssl.networks.architecture import PLAIN, RESIDUAL, Architecture
from nnunet_ssl.networks.net import Output
from nnunet_ssl.task import Target, Task

SMALL_TRANSFORMER = {"width": 48, "layers": 2, "heads": 2}  # of cross teaching
# Children that start at once are copies of a process that has only imported these. A copy of the tests' own process
# waits for ever when it compresses while an array of blosc2 is alive here: these share threads, which are not copied.
FORKSERVER = get_context("forkserver")
FORKSERVER.set_forkserver_preload(["nnunetv2.run.run_training", "nnunet_ssl.preparation.preprocessing"])


@contextmanager
def file_size_limit(bytes_at_most):
    """A real limit on the size of files stands for a full disk."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_at_most, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def change_a_weight(file: Path) -> None:
    """Changes a byte of a checkpoint that torch then loads without a word."""
    with zipfile.ZipFile(file) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    content = bytearray(file.read_bytes())
    content[largest.header_offset + 1000] ^= 0xFF
    file.write_bytes(content)


def make_diverged(file: Path) -> None:
    """Gives a checkpoint the weights that a training ends with whose loss was no number."""
    content = torch.load(file, weights_only=False)
    content["network_weights"] = {name: value * float("nan") for name, value in content["network_weights"].items()}
    torch.save(content, file)


HOLD = """
import sys
from pathlib import Path
from nnunet_ssl.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_process_holds(place: Path):
    """Within the context another process has the lock of a place; gives its number."""
    command = [sys.executable, "-c", HOLD, str(place)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8") as other:
        assert other.stdout.readline() == "held\n"
        yield other.pid


@contextmanager
def small_disk(folder: Path, kilobytes: int):
    """A file system of its own at a folder; skips the test where this user may mount none."""
    options = ["-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(["mount", *options], capture_output=True).returncode:
        pytest.skip("no right to mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def one_rank(rank: int, world: int, folder: Path):
    """Makes this process one rank of a group on the CPU, with one thread; it ends with the block, all results stored.

    At once, without Python's own end: a thread of gloo that lets go of its last tensor just then waits for an
    interpreter that is no more, and PyTorch aborts ("terminate called without an active exception", PyTorch's #190489).
    DistributedDataParallel keeps these threads alive beyond the end of the group.
    """
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    yield
    dist.destroy_process_group()
    os._exit(0)


def tiny_arguments(dimensions: int) -> dict:
    """Of a U-Net as nnU-Net's plans make it, with three stages of a few features."""
    return {
        "n_stages": 3,
        "features_per_stage": (4, 6, 8),
        "conv_op": {2: torch.nn.Conv2d, 3: torch.nn.Conv3d}[dimensions],
        "kernel_sizes": 3,
        "strides": (1, 2, 2),
        "n_conv_per_stage": 1,
        "n_conv_per_stage_decoder": 1,
        "conv_bias": True,
        "norm_op": {2: torch.nn.InstanceNorm2d, 3: torch.nn.InstanceNorm3d}[dimensions],
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": torch.nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
    }


def tiny_network(dimensions: int, channels: int, seed: int = 0, input_channels: int = 1) -> PlainConvUNet:
    """A U-Net as nnU-Net's plans make it, with three stages of a few features and deep supervision."""
    torch.manual_seed(seed)
    return PlainConvUNet(input_channels, num_classes=channels, deep_supervision=True, **tiny_arguments(dimensions))


@dataclass(frozen=True)
class TinyArchitecture(Architecture):
    """Of `tiny_network`, which it builds by itself, or of its counterpart with other blocks, always from one seed."""

    seed: int = 5

    def __call__(self) -> torch.nn.Module:
        torch.manual_seed(self.seed)
        if self.own is not None:
            return self.own()
        # with torch's own weights at the start: nnU-Net's are so large that images of the tests overflow in float16
        network = {PLAIN: PlainConvUNet, RESIDUAL: ResidualEncoderUNet}[self.network_class]
        return network(self.input_channels, num_classes=self.output_channels, deep_supervision=True, **self.arguments)


def tiny_architecture(dimensions: int, channels: int, seed: int = 5, input_channels: int = 1) -> TinyArchitecture:
    """That of `tiny_network`."""
    sizes = {"patch_size": (16,) * dimensions, "seed": seed}
    return TinyArchitecture(PLAIN, tiny_arguments(dimensions), (), input_channels, channels, **sizes)


def kind(channels: int, regions: bool = False) -> Kind:
    """Of so many output channels."""
    return (Regions if regions else Classes)(channels)


class Scaled(torch.nn.Module):
    """Logits (3 w x, 0), whose gradient comes from whatever passed through with one."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, image):
        return torch.cat((3 * self.w * image, torch.zeros_like(image)), 1)


def output(logits: torch.Tensor | list[torch.Tensor], regions: bool = False) -> Output:
    """Of logits (B, C, *spatial), or of a list of them over scales."""
    pyramid = logits if isinstance(logits, list) else [logits]
    return Output(pyramid, kind(pyramid[0].shape[1], regions))


def target(labels: torch.Tensor | list[torch.Tensor], channels: int, regions: bool = False, ignore=None) -> Target:
    """In nnU-Net's form, (B, 1, *spatial) or regions (B, C, *spatial), or a list over scales."""
    scales = labels if isinstance(labels, list) else [labels]
    return Target(tuple(scales), kind(channels, regions), ignore)


def task(dimensions: int = 2, channels: int = 2, regions: bool = False, **other) -> Task:
    """What a trainer tells a method of a data set with two scales; class counts fall with the class number."""
    counts = torch.arange(channels + regions, 0, -1).double() ** 3
    settings = {
        "channels": tuple(f"channel_{c}" for c in range(channels)),
        "kind": kind(channels, regions),
        "ignore_label": None,
        "batch_dice": False,
        "scale_weights": (2 / 3, 1 / 3),
        "image_channels": 1,
        "labeled_batch_size": 2,
        "unlabeled_batch_size": 2,
        "patch_size": (16,) * dimensions,
        "spacing": (1.0,) * dimensions,
        "mirror_axes": tuple(range(dimensions)),
        "voxel_counts": lambda: counts,
        "labeled_cases": tuple(f"case_{c}" for c in range(8)),
    }
    return Task(**(settings | other))


@dataclass
class Dataset:
    """A planned and preprocessed phantom: nnU-Net's three folders and the names to train with."""

    root: Path
    name: str = "Dataset007_Phantom"
    plans: str = "nnUNetPlans_tiny"

    @property
    def raw(self) -> Path:
        return self.root / "raw" / self.name

    @property
    def base(self) -> Path:
        return self.root / "preprocessed" / self.name

    def use(self, monkeypatch) -> "Dataset":
        for kind in ("raw", "preprocessed", "results"):
            monkeypatch.setenv(f"nnUNet_{kind}", str(self.root / kind))
        return self

    def copy(self, to: Path) -> "Dataset":
        return Dataset(shutil.copytree(self.root, to / "copy"), self.name, self.plans)


def prepare(
    root: Path, configuration: str, patch: list[int], write, name: str = "Dataset007_Phantom", spacing=None, stages=3,
    batch: int = 2, planner: type | None = None, edit=lambda plans: None, plans_name: str = Dataset.plans,
) -> Dataset:  # fmt: skip
    """Has `write(raw_folder)` make a dataset, then runs nnU-Net's planning and both preprocessings with a tiny plan.

    `planner` is nnU-Net's default one if None; `edit(plans)` changes its plans before they are made tiny. All of it in
    this process: starting the pools takes ten times as long as their work.
    """
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
    from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

    from nnunet_ssl.data.splits import make_splits
    from nnunet_ssl.preparation.preprocessing import preprocess_dataset

    dataset = Dataset(root, name, plans_name)
    with pytest.MonkeyPatch.context() as patched:
        for kind in ("raw", "preprocessed", "results"):
            (root / kind).mkdir(parents=True)
        dataset.use(patched)
        write(dataset.raw)
        plan_fast(patched)
        patched.setattr("nnunet_ssl.pools.ProcessPoolExecutor", InProcess)
        DatasetFingerprintExtractor(7, num_processes=1).run()
        planner = planner or ExperimentPlanner
        planner(7, plans_name=dataset.plans, overwrite_target_spacing=spacing).plan_experiment()
        plans_file = dataset.base / f"{dataset.plans}.json"
        plans = json.loads(plans_file.read_text(encoding="utf-8"))
        edit(plans)
        settings = plans["configurations"][configuration]
        settings |= {"patch_size": patch, "batch_size": batch}
        network = settings["architecture"]["arch_kwargs"]
        network |= {"n_stages": stages, "features_per_stage": [4, 6, 8, 8][:stages]}
        depth = "n_blocks_per_stage" if "n_blocks_per_stage" in network else "n_conv_per_stage"
        network |= {depth: [1] * stages, "n_conv_per_stage_decoder": [1] * (stages - 1)}
        for key in ("kernel_sizes", "strides"):
            network[key] = [*network[key], *network[key][-1:] * stages][:stages]
        plans_file.write_text(json.dumps(plans), encoding="utf-8")
        manager = PlansManager(str(plans_file))
        content = json.loads((dataset.raw / "dataset.json").read_text(encoding="utf-8"))
        folder = dataset.base / manager.get_configuration(configuration).data_identifier
        folder.mkdir()
        (dataset.base / "gt_segmentations").mkdir()
        cases = get_filenames_of_train_images_and_targets(str(dataset.raw), content)
        for case, files in cases.items():
            DefaultPreprocessor(verbose=False).run_case_save(
                str(folder / case), files["images"], files["label"], manager,
                manager.get_configuration(configuration), content,
            )  # fmt: skip
            shutil.copy(files["label"], dataset.base / "gt_segmentations")
        preprocess_dataset(7, [configuration], dataset.plans, 1)
        splits = make_splits([str(case) for case in cases], folds=2)
        (dataset.base / "splits_final.json").write_text(json.dumps(splits), encoding="utf-8")
    return dataset


def phantom(root: Path, configuration: str, patch: list[int], stages: int = 3, **arguments) -> Dataset:
    """A prepared phantom of 4 labeled, 5 unlabeled and 1 test case."""
    from nnunet_ssl.demo.phantom import write_phantom

    write = partial(write_phantom, labeled=4, unlabeled=5, test=1, classes=3, **arguments)
    return prepare(root, configuration, patch, write, stages=stages)


class InProcess:
    """Stands in for the process pool where a test is not about processes: starting one takes seconds."""

    def __init__(self, *args, **kwargs):
        pass

    def submit(self, function, *args):
        future = Future()
        try:
            future.set_result(function(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def shutdown(self, **kwargs):
        pass


def plan_fast(monkeypatch) -> None:
    """nnU-Net's planning in this process, with fewer voxels and no network built to estimate memory."""
    import multiprocessing.dummy
    import multiprocessing.pool  # before get_context is replaced

    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

    init = DatasetFingerprintExtractor.__init__

    def few_voxels(self, *args, **kwargs):
        init(self, *args, **kwargs)
        self.num_foreground_voxels_for_intensitystats = 30_000

    monkeypatch.setattr(DatasetFingerprintExtractor, "__init__", few_voxels)
    monkeypatch.setattr(ExperimentPlanner, "static_estimate_VRAM_usage", staticmethod(lambda *args: 1e6))
    monkeypatch.setattr("multiprocessing.get_context", lambda method: multiprocessing.dummy)


def assert_same(actual, expected, where: str = "") -> None:
    """All of two nested states is equal, but for timestamps; NaN equals NaN."""
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys(), where
        for key in expected:
            if "timestamps" not in str(key):
                assert_same(actual[key], expected[key], f"{where}/{key}")
    elif isinstance(expected, (list, tuple)):
        assert len(actual) == len(expected), where
        for index, pair in enumerate(zip(actual, expected, strict=True)):
            assert_same(*pair, f"{where}/{index}")
    elif isinstance(expected, (torch.Tensor, np.ndarray, float)):
        np.testing.assert_array_equal(np.asarray(actual), np.asarray(expected), where)
    else:
        assert actual == expected, where
