"""Every trainer through the entry points of nnUNetv2_train and nnUNetv2_predict: trains, resumes, predicts."""

import json
import multiprocessing.dummy
import sys

import pytest
import SimpleITK as sitk
import torch
from battery import TRAINERS, shortest
from nnunetv2.inference.predict_from_raw_data import predict_entry_point
from nnunetv2.run.run_training import run_training_entry
from real_device import DEVICE
from workbench import phantom

SHORT = {"num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 1, "save_every": 1, "seed": 0}
PLANS = ["-p", "nnUNetPlans_tiny", "-device", DEVICE.type]
# on a GPU, where each is compiled: the baseline, boxes, two networks, an optimizer of its own, pseudo-labels of cases
ON_A_GPU = ("Supervised", "BCP", "DHC", "CrossTeaching", "SelfTraining")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Three classes in 3D; four stages, as some methods need two supervised scales."""
    return phantom(tmp_path_factory.mktemp("every"), "3d_fullres", [16, 16, 16], stages=4, shape=(16, 24, 24))


@pytest.fixture
def command(dataset, monkeypatch):
    """Calls an entry point with arguments, as the command does, without the seconds that processes take to start."""
    dataset.use(monkeypatch)
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setattr("nnunet_ssl.training.progress.ProgressLogger.plot_progress_png", lambda *args: None)
    monkeypatch.setattr("multiprocessing.get_context", lambda method: multiprocessing.dummy)  # nnU-Net's pools
    monkeypatch.setattr("torch.set_num_threads", lambda number: None)  # nnU-Net takes all cores, for tiny networks

    def call(entry_point, *arguments, **settings):
        monkeypatch.setenv("nnUNet_ssl_config", json.dumps(settings) if settings else "")
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        entry_point()

    return call


@pytest.mark.parametrize(
    "trainer",
    [
        pytest.param(
            f"nnUNetTrainer{name}", id=f"nnUNetTrainer{name}", marks=pytest.mark.gpu if name in ON_A_GPU else ()
        )
        for name in TRAINERS
    ],
)
def test_trains_two_epochs_resumes_and_predicts(dataset, command, trainer, tmp_path):
    settings = shortest(trainer) | SHORT
    training = ["7", "3d_fullres", "0", "-tr", trainer, *PLANS]
    command(run_training_entry, *training, **settings | {"num_epochs": 2})
    fold = dataset.root / "results" / dataset.name / f"{trainer}__nnUNetPlans_tiny__3d_fullres" / "fold_0"
    command(run_training_entry, *training, "--c", **settings | {"num_epochs": 3})
    log = "".join(file.read_text(encoding="utf-8") for file in fold.glob("training_log_*.txt"))
    assert [log.count(f": Epoch {epoch} ") for epoch in range(4)] == [1, 1, 1, 0]
    checkpoint = torch.load(fold / "checkpoint_final.pth", map_location="cpu", weights_only=False)
    assert checkpoint["current_epoch"] == 3
    assert json.loads((fold / "validation" / "summary.json").read_text(encoding="utf-8"))["metric_per_case"]

    images = dataset.raw / "imagesTs"
    command(
        predict_entry_point, "-d", 7, "-i", images, "-o", tmp_path / "out", "-c", "3d_fullres", "-f", 0,
        "-tr", trainer, *PLANS, "--disable_tta", "-npp", 0, "-nps", 0,
    )  # fmt: skip
    predicted = sorted((tmp_path / "out").glob("*.nii.gz"))
    assert len(predicted) == 1
    expected = sitk.ReadImage(next(images.glob("*_0000.nii.gz")))
    assert sitk.ReadImage(predicted[0]).GetSize() == expected.GetSize()
