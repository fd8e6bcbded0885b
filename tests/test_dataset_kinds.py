"""Every kind of dataset through the entry points of nnU-Net's commands: trains and predicts, or says why not."""

import json
import multiprocessing.dummy
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
import torch
from battery import (
    FOUR_STAGES,
    PROPAGATED,
    THREE_D,
    TRAINERS,
    TWO_LABELED,
    TWO_PATCHES,
    method_of,
    refusal,
    shortest,
)
from nnunetv2.experiment_planning.experiment_planners.residual_unets.residual_encoder_unet_planners import (
    nnUNetPlannerResEncL,
    nnUNetPlannerResEncM,
)
from nnunetv2.inference.predict_from_raw_data import predict_entry_point
from nnunetv2.run.run_training import run_training_entry
from skimage import io
from workbench import Dataset, prepare

from nnunet_ssl.demo.phantom import phantom_case
from nnunet_ssl.errors import InputError

pytestmark = pytest.mark.slow

SHORT = {"num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 1, "seed": 0}
LABELED, UNLABELED, TEST = 4, 3, 1


def blocks(shape, classes, channels, seed):
    """An image of small blocks, of as many classes as wanted."""
    places = np.indices(shape) // 4
    number = np.ravel_multi_index(tuple(places), tuple(-(-size // 4) for size in shape))
    label = ((number + seed[1]) % classes).astype(np.uint8)
    noise = np.random.default_rng(seed).integers(0, 20, (channels, *shape))
    return (5 * label + noise).astype(np.uint8), label


def scribbles(label, ignore):
    """Keeps a few lines of the annotation."""
    sparse = np.full_like(label, ignore)
    sparse[..., ::5, :] = label[..., ::5, :]
    return sparse


def slices(label, ignore):
    """Keeps two slices."""
    sparse = np.full_like(label, ignore)
    for at in (len(label) // 3, len(label) // 2):
        sparse[at] = label[at]
    return sparse


def with_lowres(plans):
    """What nnU-Net plans for large images: a configuration at twice the spacing."""
    full = plans["configurations"]["3d_fullres"]
    lower = {"data_identifier": "nnUNetPlans_tiny_3d_lowres", "spacing": [2 * s for s in full["spacing"]]}
    plans["configurations"]["3d_lowres"] = full | lower


@dataclass
class Kind:
    """A dataset and a plan for it. `labels` of dataset.json lack the background; `sparse` takes annotation away."""

    configuration: str = "3d_fullres"
    shape: tuple[int, ...] = (16, 24, 24)
    patch: tuple[int, ...] = (16, 16, 16)
    ending: str = ".nii.gz"
    spacing: tuple[float, ...] = (2.0, 2.0, 2.0)
    labels: dict = field(default_factory=lambda: {"liver": 1, "kidney": 2})
    sparse: Callable | None = None
    channels: int = 1
    one_file: bool = False  # all channels in it
    stages: int = 4
    batch: int = 2
    unlabeled_batch: int | None = None
    planner: type | None = None
    edit: Callable = lambda plans: None
    case: Callable = phantom_case

    @property
    def regions(self):
        return any(isinstance(value, list) for value in self.labels.values())

    @property
    def classes(self):
        """Of the full annotation, background included."""
        return 1 + max(np.max(value) for name, value in self.labels.items() if name != "ignore")

    def write(self, folder: Path) -> None:
        for number in range(LABELED + UNLABELED + TEST):
            part = "Tr" if number < LABELED else "Unlabeled" if number < LABELED + UNLABELED else "Ts"
            image, label = self.case(self.shape, classes=self.classes, channels=self.channels, seed=(0, number))
            images = [np.moveaxis(image, 0, -1)] if self.one_file else image
            for channel, values in enumerate(images):
                self.write_array(values, folder / f"images{part}" / f"case_{number}", f"_{channel:04d}")
            if part == "Tr":
                label = label if self.sparse is None else self.sparse(label, self.labels["ignore"])
                self.write_array(label, folder / "labelsTr" / f"case_{number}", "")
        content = {
            "channel_names": {str(channel): f"channel_{channel}" for channel in range(self.channels)},
            "labels": {"background": 0} | self.labels,
            "numTraining": LABELED,
            "file_ending": self.ending,
        }
        if self.regions:
            content["regions_class_order"] = list(range(1, 1 + len(self.labels) - ("ignore" in self.labels)))
        (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")

    def write_array(self, array: np.ndarray, stem: Path, channel: str) -> None:
        file = stem.with_name(f"{stem.name}{channel}{self.ending}")
        file.parent.mkdir(parents=True, exist_ok=True)
        if self.ending == ".nii.gz":
            image = sitk.GetImageFromArray(array)
            image.SetSpacing(self.spacing[::-1])
            sitk.WriteImage(image, str(file))
        elif len(self.shape) == 3:
            tifffile.imwrite(file, array)
            stem.with_suffix(".json").write_text(json.dumps({"spacing": self.spacing}), encoding="utf-8")
        else:
            io.imsave(file, array, check_contrast=False)

    def read(self, file: Path) -> np.ndarray:
        return sitk.GetArrayFromImage(sitk.ReadImage(file)) if self.ending == ".nii.gz" else io.imread(file)

    def prepared(self, root: Path) -> Dataset:
        options = {"stages": self.stages, "batch": self.batch, "planner": self.planner, "edit": self.edit}
        return prepare(root, self.configuration, list(self.patch), self.write, **options)


flat = partial(Kind, configuration="2d", shape=(40, 40), patch=(32, 32), ending=".png")
NESTED = {"organs": [1, 2], "kidney": [2]}
KINDS = {
    "2d png": flat(),
    "2d png in color": flat(channels=3, one_file=True),
    "2d tiff": flat(ending=".tif"),
    "3d tiff": Kind(ending=".tif"),
    "one class": Kind(labels={"liver": 1}),
    "one region": Kind(labels={"organs": [1, 2]}),
    "forty classes": Kind(labels={f"class_{c}": c for c in range(1, 40)}, case=blocks, shape=(20, 20, 20)),
    "two channels": Kind(channels=2),
    "anisotropic": Kind(shape=(10, 24, 24), patch=(4, 16, 16), spacing=(9.0, 2.0, 2.0)),  # dummy 2D augmentation
    "regions": Kind(labels=NESTED),
    "scribbles": Kind(labels={"liver": 1, "kidney": 2, "ignore": 3}, sparse=scribbles),
    "slices": Kind(labels={"liver": 1, "kidney": 2, "ignore": 3}, sparse=slices),
    "regions and scribbles": Kind(labels=NESTED | {"ignore": 3}, sparse=scribbles),
    "3d_lowres": Kind(configuration="3d_lowres", shape=(32, 32, 32), edit=with_lowres),
    "ResEncM": Kind(planner=nnUNetPlannerResEncM),
    "ResEncL in 2d": flat(planner=nnUNetPlannerResEncL),
    "batch of 1 and three stages": Kind(batch=1, stages=3),
    "batch of 12, unlabeled 3": Kind(batch=12, unlabeled_batch=3),
    "unlabeled 5": flat(unlabeled_batch=5, labels=NESTED),
}
# what a method may need
LACKING = {"batch of 1 and three stages": (TWO_PATCHES, TWO_LABELED, FOUR_STAGES)}
LACKING |= {name: (THREE_D,) for name, kind in KINDS.items() if kind.configuration == "2d"}
LACKING |= {name: (PROPAGATED,) for name, kind in KINDS.items() if kind.sparse is not None}


def matrix():
    """All pairs; in the ordinary run two trainers of each kind, in turn, so that every trainer meets two kinds."""
    for number, kind in enumerate(KINDS):
        chosen = {TRAINERS[place % len(TRAINERS)] for place in (2 * number, 2 * number + 1)}
        for trainer in TRAINERS:
            ordinary = trainer in chosen or refusal(trainer, LACKING.get(kind, ()))
            yield pytest.param(kind, trainer, id=f"{kind}-{trainer}", marks=() if ordinary else pytest.mark.long)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Prepares a kind of dataset once."""
    made = {}

    def get(kind: str) -> Dataset:
        if kind not in made:
            made[kind] = KINDS[kind].prepared(tmp_path_factory.mktemp("kind"))
        return made[kind]

    return get


@pytest.fixture
def command(monkeypatch):
    """Calls an entry point with arguments, as the command does, without the seconds that processes take to start."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setattr("nnunet_ssl.training.progress.ProgressLogger.plot_progress_png", lambda *args: None)
    monkeypatch.setattr("multiprocessing.get_context", lambda method: multiprocessing.dummy)  # nnU-Net's pools
    monkeypatch.setattr("torch.set_num_threads", lambda number: None)  # nnU-Net takes all cores, for tiny networks

    def call(entry_point, *arguments):
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        entry_point()

    return call


def settings(kind, trainer):
    chosen = SHORT | shortest(trainer)
    if kind.unlabeled_batch is not None and method_of(trainer) and method_of(trainer).reads_unlabeled():
        chosen["unlabeled_batch_size"] = kind.unlabeled_batch
    return chosen


def check_results(dataset, kind, trainer, predicted: Path):
    name = f"nnUNetTrainer{trainer}__{dataset.plans}__{kind.configuration}"
    fold = dataset.root / "results" / dataset.name / name / "fold_0"
    checkpoint = torch.load(fold / "checkpoint_final.pth", map_location="cpu", weights_only=False)
    assert all(torch.isfinite(weight).all() for weight in checkpoint["network_weights"].values())
    assert np.isfinite(checkpoint["logging"]["train_losses"]).all()
    summary = json.loads((fold / "validation" / "summary.json").read_text(encoding="utf-8"))
    assert len(summary["metric_per_case"]) == 2
    (file,) = predicted.glob(f"case_*{kind.ending}")
    labels = kind.read(file)
    assert labels.shape == kind.shape and labels.max() < kind.classes  # never the ignore label


@pytest.mark.parametrize(("kind", "trainer"), matrix())
def test_trains_and_predicts_or_says_why_not(kind, trainer, prepared, command, monkeypatch, tmp_path):
    reason = refusal(trainer, LACKING.get(kind, ()))
    dataset, kind = prepared(kind).use(monkeypatch), KINDS[kind]
    monkeypatch.setenv("nnUNet_ssl_config", json.dumps(settings(kind, trainer)))
    common = ["-tr", f"nnUNetTrainer{trainer}", "-p", dataset.plans, "-device", "cpu"]
    training = ["7", kind.configuration, "0", *common]
    if reason:
        with pytest.raises((NotImplementedError, InputError), match=reason):
            command(run_training_entry, *training)
        return
    command(run_training_entry, *training)
    out = tmp_path / "out"
    command(
        predict_entry_point, "-d", 7, "-i", dataset.raw / "imagesTs", "-o", out, "-c", kind.configuration, "-f", 0,
        *common, "--disable_tta", "-npp", 0, "-nps", 0,
    )  # fmt: skip
    check_results(dataset, kind, trainer, out)


@pytest.mark.parametrize(("kind", "trainer"), [("regions and scribbles", "FixMatchCTA")])
def test_the_same_by_the_commands_themselves(kind, trainer, prepared, monkeypatch, tmp_path):
    dataset, kind = prepared(kind).copy(tmp_path).use(monkeypatch), KINDS[kind]
    environment = os.environ | {
        "nnUNet_ssl_config": json.dumps(settings(kind, trainer)), "nnUNet_n_proc_DA": "1", "nnUNet_compile": "false",
    }  # fmt: skip
    common = ["-tr", f"nnUNetTrainer{trainer}", "-p", dataset.plans, "-device", "cpu"]
    out = tmp_path / "out"
    for line in (
        ["nnUNetv2_train", "7", kind.configuration, "0", *common],
        ["nnUNetv2_predict", "-d", "7", "-i", dataset.raw / "imagesTs", "-o", out, "-c", kind.configuration, "-f", "0",
         *common, "--disable_tta", "-npp", "1", "-nps", "1"],
    ):  # fmt: skip
        command = [Path(sys.executable).with_name(line[0]), *line[1:]]
        subprocess.run(list(map(str, command)), env=environment, check=True, capture_output=True, timeout=300)
    check_results(dataset, kind, trainer, out)
