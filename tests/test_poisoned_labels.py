"""Labels that must not be seen are replaced by files that no reader can read, and nothing notices.

In this process any opening from Python raises as well; readers written in C fail on the content.
"""

import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from battery import TRAINERS, method_of, shortest
from workbench import InProcess, plan_fast

from nnunet_ssl.demo.phantom import write_phantom

POISON = b"not to be opened"
NAME = "Dataset007_Phantom"
SHORT = {"num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 1, "seed": 0}
FEW = ["DHC", "SelfTraining"]  # class weights from the labeled voxels; cases with hidden labels get other ones
poisoned: set[str] = set()


class PoisonOpened(Exception):
    pass


@pytest.fixture(scope="module", autouse=True)
def opening_raises():
    def hook(event, arguments):
        if poisoned and event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)):
            path = os.path.abspath(os.fsdecode(arguments[0]))
            if path in poisoned:
                raise PoisonOpened(path)

    sys.addaudithook(hook)  # cannot be taken away again, and does nothing without poison
    yield
    poisoned.clear()


def poison(files) -> None:
    for file in files:
        assert file.is_file()
        file.unlink()  # it may be a link
        file.write_bytes(POISON)
        poisoned.add(str(file.absolute()))


@contextmanager
def poison_for_now(files, aside: Path):
    aside.mkdir()
    for file in files:
        shutil.copy(file, aside)
    poison(files)
    yield
    for file in files:
        poisoned.discard(str(file.absolute()))
        shutil.move(aside / file.name, file)


@pytest.fixture(params=["here", pytest.param("processes", marks=pytest.mark.long)])
def road(request, tmp_path, monkeypatch):
    """nnU-Net's folders, and a function that calls a command: its entry point in this process, or the real command."""
    for kind in ("raw", "preprocessed", "results"):
        (tmp_path / kind).mkdir()
        monkeypatch.setenv(f"nnUNet_{kind}", str(tmp_path / kind))
    here = request.param == "here"
    monkeypatch.setenv("nnUNet_n_proc_DA", "0" if here else "1")
    if here:
        monkeypatch.setattr("nnunet_ssl.training.progress.ProgressLogger.plot_progress_png", lambda *args: None)
        monkeypatch.setattr("nnunet_ssl.pools.ProcessPoolExecutor", InProcess)
        plan_fast(monkeypatch)
        monkeypatch.setattr("torch.set_num_threads", lambda number: None)
    scripts = {entry.name: entry for entry in entry_points(group="console_scripts")}

    def call(command, *arguments, **settings):
        arguments = list(map(str, arguments))
        monkeypatch.setenv("nnUNet_ssl_config", json.dumps(settings) if settings else "")
        if here:
            monkeypatch.setattr(sys, "argv", [command, *arguments])
            try:
                scripts[command].load()()
            except SystemExit as end:
                assert not end.code
        else:
            done = subprocess.run(
                [Path(sys.executable).with_name(command), *arguments], capture_output=True, encoding="utf-8"
            )
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    return tmp_path, call, FEW if here else TRAINERS


def shrink(file: Path) -> None:
    """A network of a few features, with the stages that every method can do."""
    plans = json.loads(file.read_text(encoding="utf-8"))
    settings = plans["configurations"]["3d_fullres"]
    settings |= {"patch_size": [16, 16, 16], "batch_size": 2}
    network = settings["architecture"]["arch_kwargs"]
    network |= {"n_stages": 4, "features_per_stage": [4, 6, 8, 8], "n_conv_per_stage": [1] * 4}
    network |= {"n_conv_per_stage_decoder": [1] * 3, "kernel_sizes": [[3, 3, 3]] * 4}
    network["strides"] = [[1, 1, 1]] + [[2, 2, 2]] * 3
    file.write_text(json.dumps(plans), encoding="utf-8")


def train_predict_evaluate(root: Path, call, methods: list[str], plans: str) -> None:
    raw = root / "raw" / NAME
    for method in methods:
        model = ["-tr", f"nnUNetTrainer{method}", "-p", plans]
        call("nnUNetv2_train", 7, "3d_fullres", 0, *model, "-device", "cpu", **(SHORT | shortest(method)))
        fold = root / "results" / NAME / f"nnUNetTrainer{method}__{plans}__3d_fullres" / "fold_0"
        checkpoint = torch.load(fold / "checkpoint_final.pth", map_location="cpu", weights_only=False)
        assert np.isfinite(checkpoint["logging"]["train_losses"]).all()
        assert json.loads((fold / "validation" / "summary.json").read_text(encoding="utf-8"))["metric_per_case"]
        labels = "target" in getattr(method_of(method), "views", ())
        assert labels == (fold / "pseudo_labels" / "phase_1").is_dir()
        out = root / f"predicted_{method}"
        call("nnUNetv2_predict", "-d", 7, "-i", raw / "imagesTs", "-o", out, "-c", "3d_fullres", "-f", 0, *model,
             "-device", "cpu", "--disable_tta", "-npp", 0, "-nps", 0)  # fmt: skip
        if (raw / "labelsTs").is_dir():
            call("nnunet_ssl", "evaluate", raw / "labelsTs", out, "-np", 1)
            assert (out / "metrics.json").is_file()


@pytest.mark.slow
def test_labels_that_a_fold_hides(road):
    """The `"unlabeled"` list, with plans made on the labels of the fold."""
    root, call, methods = road
    raw, base = root / "raw" / NAME, root / "preprocessed" / NAME
    write_phantom(raw, labeled=6, unlabeled=0, test=1, shape=(20, 28, 28), classes=3)
    call("nnUNetv2_extract_fingerprint", "-d", 7, "-np", 1)
    call("nnUNetv2_plan_experiment", "-d", 7)
    call("nnunet_ssl", "split", "-d", 7, "--labeled", 2, "--folds", 2)
    split = json.loads((base / "splits_final.json").read_text(encoding="utf-8"))[0]
    [hidden] = split["unlabeled"]
    with poison_for_now([raw / "labelsTr" / f"{hidden}.nii.gz"], root / "aside"):
        call("nnunet_ssl", "plan", "-d", 7, "-f", 0, "-np", 1)
    shrink(base / "nnUNetPlans_fold0.json")
    # nnU-Net preprocesses the labeled folder with its labels: from here on nothing may open those of hidden cases
    call("nnUNetv2_preprocess", "-d", 7, "-plans_name", "nnUNetPlans_fold0", "-c", "3d_fullres", "-np", 1)
    data = base / "nnUNetPlans_fold0_3d_fullres"
    poison([
        raw / "labelsTr" / f"{hidden}.nii.gz", base / "gt_segmentations" / f"{hidden}.nii.gz",
        data / f"{hidden}_seg.b2nd", data / f"{hidden}.pkl",  # the properties hold the places of each class
    ])  # fmt: skip
    train_predict_evaluate(root, call, methods, "nnUNetPlans_fold0")
    for method in methods:
        model = root / "results" / NAME / f"nnUNetTrainer{method}__nnUNetPlans_fold0__3d_fullres"
        [log] = (model / "fold_0").glob("training_log_*.txt")
        assert "labels that this fold hides and the plans saw: 0" in log.read_text(encoding="utf-8")
        debug = json.loads((model / "fold_0" / "debug.json").read_text(encoding="utf-8"))
        assert debug["plans_saw_hidden_labels"] == "0"
        record = json.loads((model / "plans.json").read_text(encoding="utf-8"))["nnunet_ssl"]
        assert record == {"fold": 0, "planned_on": sorted(split["train"] + split["val"])}
        checkpoint = torch.load(model / "fold_0" / "checkpoint_final.pth", map_location="cpu", weights_only=False)
        assert checkpoint["init_args"]["plans"]["nnunet_ssl"] == record
    assert poisoned_are_as_they_were(4)


@pytest.mark.slow
def test_labels_of_unlabeled_cases(road):
    """The folder imagesUnlabeled, from a source with a label for every case; a stray labelsUnlabeled lies beside it."""
    root, call, methods = road
    source, raw, base = root / "Task07_Phantom", root / "raw" / NAME, root / "preprocessed" / NAME
    write_phantom(source, labeled=7, unlabeled=0, test=1, shape=(20, 28, 28), classes=3)
    cases = sorted(file.name.removesuffix(".nii.gz") for file in (source / "labelsTr").iterdir())
    for file in [*source.glob("images*/*_0000.nii.gz")]:
        file.rename(file.with_name(file.name.replace("_0000", "")))
    task = {
        "name": "Phantom", "modality": {"0": "MRI"}, "labels": {"0": "background", "1": "liver", "2": "kidney"},
        "numTraining": 7, "numTest": 1, "test": ["./imagesTs/phantom_007.nii.gz"],
        "training": [{"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in cases],
    }  # fmt: skip
    (source / "dataset.json").write_text(json.dumps(task), encoding="utf-8")
    poison([source / "labelsTr" / f"{case}.nii.gz" for case in cases[4:]])
    call("nnunet_ssl", "convert", "msd", source, "--dataset-id", 7, "--labeled", 4, "--name", "Phantom", "-np", 1)
    assert len(list((raw / "labelsTr").iterdir())) == 4
    (raw / "labelsUnlabeled").mkdir()
    for case in cases[4:]:
        (raw / "labelsUnlabeled" / f"{case}.nii.gz").touch()
    poison([*(raw / "labelsUnlabeled").iterdir()])
    call("nnUNetv2_extract_fingerprint", "-d", 7, "-np", 1)
    call("nnUNetv2_plan_experiment", "-d", 7)
    shrink(base / "nnUNetPlans.json")
    call("nnUNetv2_preprocess", "-d", 7, "-c", "3d_fullres", "-np", 1)
    call("nnunet_ssl", "preprocess", "-d", 7, "-c", "3d_fullres", "-np", 1)
    call("nnunet_ssl", "check", "-d", 7, "-np", 1)
    call("nnunet_ssl", "split", "-d", 7, "--folds", 2)
    train_predict_evaluate(root, call, methods, "nnUNetPlans")
    assert poisoned_are_as_they_were(6)


def poisoned_are_as_they_were(count: int) -> bool:
    files = list(poisoned)
    poisoned.clear()
    return len(files) == count and all(Path(file).read_bytes() == POISON for file in files)


@pytest.mark.parametrize("name", ["label.nii.gz", "label.nrrd", "label.png", "case_seg.b2nd", "case.pkl"])
def test_the_poison_works(tmp_path, name):
    """Every reader that meets such a file fails, also in C and in another process."""
    import pickle

    import blosc2

    file = tmp_path / name
    file.touch()
    poison([file])
    with pytest.raises(PoisonOpened):
        file.read_bytes()
    poisoned.clear()
    with pytest.raises((RuntimeError, pickle.UnpicklingError)):
        if name.endswith(".b2nd"):
            blosc2.open(str(file))
        elif name.endswith(".pkl"):
            pickle.loads(file.read_bytes())
        else:
            sitk.ReadImage(str(file))
