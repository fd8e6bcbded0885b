"""The cascade: the first stage predicts the unlabeled cases, the second reads them aligned with their images."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import blosc2
import numpy as np
import pytest
import SimpleITK as sitk
import torch
import typer
from battery import ENTRIES, shortest
from nnunetv2.inference.predict_from_raw_data import predict_entry_point
from nnunetv2.run.run_training import get_trainer_from_args, run_training_entry
from two_stages import (
    CPU,
    FIRST,
    PLANS,
    SECOND,
    SHORT,
    TRAINER,
    files_of,
    fold_of,
    model,
    predict,
    predictions,
    refused,
    setup_error,
    unlabeled_cases,
)
from workbench import InProcess, another_process_holds, file_size_limit, make_diverged

from nnunet_ssl.cli import app, spread
from nnunet_ssl.data.loader import UnlabeledPool
from nnunet_ssl.errors import InputError
from nnunet_ssl.estimate.estimate import estimate
from nnunet_ssl.preparation import next_stage

TRAINERS = [f"nnUNetTrainer{entry.name}" for entry in ENTRIES]  # without ablations, whose code is that of their method


@pytest.fixture
def command(in_process, monkeypatch):
    def call(entry_point, *arguments, **settings):
        monkeypatch.setenv("nnUNet_ssl_config", json.dumps(settings) if settings else "")
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        entry_point()

    return call


def test_a_fold_gets_its_unlabeled_cases_and_those_with_a_hidden_label_from_its_own_network(predicted):
    fold = fold_of(predicted)
    written = predictions(predicted)
    assert set(files_of(written)) == unlabeled_cases(predicted) | set(fold["unlabeled"])
    assert len(unlabeled_cases(predicted)) == 5 and len(fold["unlabeled"]) == 1
    assert not predictions(predicted, 1).exists()
    # nnU-Net's folder of all folds holds what each fold validates on, and nothing of ours
    assert set(files_of(model(predicted) / "predicted_next_stage" / SECOND)) == {
        case for number in (0, 1) for case in fold_of(predicted, number)["val"]
    }
    images = predicted.base / "nnUNetPlans_tiny_3d_fullres"
    for case in files_of(written):
        image = images if case in fold["unlabeled"] else images.with_name(f"{images.name}_unlabeled")
        segmentation = blosc2.open(str(written / f"{case}.b2nd"))
        assert segmentation.shape == blosc2.open(str(image / f"{case}.b2nd")).shape[1:]
        assert segmentation.dtype == np.uint8
        assert set(np.unique(segmentation[:])) <= {0, 1, 2}


def test_a_prediction_is_what_nnunet_makes_of_a_validation_case(predicted, monkeypatch, tmp_path):
    """A case that fold 0 validates on, made an unlabeled one, gets the voxels that nnU-Net wrote for it."""
    dataset = predicted.copy(tmp_path).use(monkeypatch)
    monkeypatch.setattr("nnunet_ssl.pools.ProcessPoolExecutor", InProcess)
    file = dataset.base / "splits_final.json"
    splits = json.loads(file.read_text(encoding="utf-8"))
    case = splits[0]["val"].pop()
    splits[0]["unlabeled"] = [case]
    file.write_text(json.dumps(splits), encoding="utf-8")
    predict(dataset)
    ours = blosc2.open(str(predictions(dataset) / f"{case}.b2nd"))[:]
    nnunets = blosc2.open(str(model(dataset) / "predicted_next_stage" / SECOND / f"{case}.b2nd"))[:]
    assert ours.shape == nnunets.shape and len(np.unique(ours)) > 1
    assert (ours == nnunets).mean() > 0.999


def test_the_labels_and_properties_of_hidden_cases_stay_closed(dataset, in_process):
    case = fold_of(dataset)["unlabeled"][0]
    for stage in ("lowres", "fullres"):
        for ending in ("_seg.b2nd", ".pkl"):
            (dataset.base / f"nnUNetPlans_tiny_3d_{stage}" / f"{case}{ending}").unlink()
    (dataset.raw / "labelsTr" / f"{case}.nii.gz").unlink()
    predict(dataset)
    assert (predictions(dataset) / f"{case}.b2nd").is_file()


def test_finished_cases_are_kept_until_checkpoint_or_image_change(predicted, in_process, monkeypatch, tmp_path):
    dataset = predicted.copy(tmp_path).use(monkeypatch)
    made, real = [], next_stage._resample
    monkeypatch.setattr(next_stage, "_resample", lambda *args: made.append(args[2].name) or real(*args))
    folder, every = predictions(dataset), sorted(files_of(predictions(dataset)))
    predict(dataset)
    assert not made
    (folder / f"{every[1]}.b2nd").unlink()
    other = sorted(unlabeled_cases(dataset) - {every[1]})[0]
    os.utime(dataset.base / "nnUNetPlans_tiny_3d_lowres_unlabeled" / f"{other}.b2nd")
    (folder / ".partial").mkdir()
    predict(dataset)
    assert set(made) == {every[1], other} and len(made) == 2
    made.clear()
    file = model(dataset) / "fold_0/checkpoint_final.pth"
    checkpoint = torch.load(file, weights_only=False)
    torch.save(checkpoint | {"current_epoch": 7}, file)
    predict(dataset)
    assert sorted(made) == every
    assert not (folder / ".partial").exists()


def test_what_an_interruption_leaves_is_whole(dataset, in_process, monkeypatch):
    real = next_stage._resample

    def fails(logits, shape, aside, *rest):
        if len(files_of(predictions(dataset))) == 3:
            Path(f"{aside}.b2nd").write_bytes(b"half")
            raise KeyboardInterrupt
        real(logits, shape, aside, *rest)

    monkeypatch.setattr(next_stage, "_resample", fails)
    with pytest.raises(KeyboardInterrupt):
        predict(dataset)
    kept = files_of(predictions(dataset))
    assert len(kept) == 3 and b"half" not in kept.values()
    monkeypatch.setattr(next_stage, "_resample", real)
    predict(dataset)
    assert len(files_of(predictions(dataset))) == 6
    assert all(files_of(predictions(dataset))[case] == content for case, content in kept.items())


def test_what_cannot_be_predicted_is_said_in_one_line(dataset, in_process):
    assert "-f ../fold_0: give the number" in refused(dataset, fold="../fold_0")
    missing = refused(dataset, fold="2")
    assert "fold_2" in missing and f"nnUNetv2_train 7 3d_lowres 2 -tr {TRAINER} -p nnUNetPlans_tiny" in missing
    assert "Trained so far" in refused(dataset, configuration="3d_fullres")
    assert "no CUDA device" in refused(dataset, device="cuda") or torch.cuda.is_available()
    assert not predictions(dataset).exists()

    case = sorted(unlabeled_cases(dataset))[2]
    image = dataset.base / "nnUNetPlans_tiny_3d_lowres_unlabeled" / f"{case}.b2nd"
    image.write_bytes(image.read_bytes()[:200])
    assert case in refused(dataset) and str(image) in refused(dataset)
    shutil.rmtree(image.parent)
    assert "nnunet_ssl preprocess -d 7 -c 3d_lowres" in refused(dataset) or "only: run" in refused(dataset)
    make_diverged(model(dataset) / "fold_0" / "checkpoint_final.pth")
    assert "checkpoint_final.pth has weights that are no numbers: its training diverged" in refused(dataset)
    (model(dataset) / "fold_0" / "checkpoint_final.pth").write_bytes(b"no checkpoint")
    assert "checkpoint_final.pth cannot be used" in refused(dataset)


def test_a_full_disk_is_named_and_finished_cases_are_kept(dataset, in_process, monkeypatch):
    real = next_stage._resample

    def resample(*arguments):
        with file_size_limit(50 if len(files_of(predictions(dataset))) == 1 else resource.RLIM_INFINITY):
            real(*arguments)

    monkeypatch.setattr(next_stage, "_resample", resample)
    told = refused(dataset)
    monkeypatch.setattr(next_stage, "_resample", real)
    file = predictions(dataset) / ".partial" / f"{sorted(unlabeled_cases(dataset))[1]}.b2nd"
    assert told == (
        f"{file} cannot be written: File too large. Make room and run the same command again: finished cases are kept."
    )
    kept = files_of(predictions(dataset))
    predict(dataset)
    assert len(kept) == 1 and files_of(predictions(dataset)).items() > kept.items()


def test_a_second_run_is_refused(dataset, in_process):
    with another_process_holds(predictions(dataset)) as other:
        assert refused(dataset).startswith(f"{predictions(dataset)} is in use: process {other} on ")
        predict(dataset, fold="1")
    assert not predictions(dataset).exists() and len(files_of(predictions(dataset, 1))) == 5


def test_a_configuration_without_a_next_stage_is_refused(dataset, in_process):
    file = model(dataset) / "plans.json"
    plans = json.loads(file.read_text(encoding="utf-8"))
    del plans["configurations"][FIRST]["next_stage"]
    file.write_text(json.dumps(plans), encoding="utf-8")
    assert "3d_lowres of nnUNetPlans_tiny is not the first stage" in refused(dataset)


def test_the_second_stage_names_the_command_that_is_missing(dataset, in_process):
    """Before any prediction, with some missing, and without nnU-Net's predictions of the labeled cases."""
    wanted = f"`nnunet_ssl predict_next_stage -d 7 -tr {TRAINER} -p nnUNetPlans_tiny -c 3d_lowres -f 0`"
    message = setup_error(dataset)
    assert message.startswith("6 unlabeled case(s)") and wanted in message
    predict(dataset)
    case = fold_of(dataset)["unlabeled"][0]
    (predictions(dataset) / f"{case}.b2nd").unlink()
    message = setup_error(dataset)
    assert message.startswith("1 unlabeled case(s)") and case in message and wanted in message
    shutil.rmtree(model(dataset) / "predicted_next_stage")
    assert "labeled case(s) have no first-stage prediction" in setup_error(dataset)
    assert "train all folds of 3d_lowres" in setup_error(dataset)


@pytest.fixture
def second_stage(predicted, command, monkeypatch):
    """Trains the second stage of any trainer, which takes over Mean Teacher's predictions; its model folder."""
    predicted.use(monkeypatch)

    def train(trainer, *options, **settings) -> Path:
        if not model(predicted, trainer=trainer).exists():
            for folder in ("predicted_next_stage", "fold_0/predicted_next_stage"):
                shutil.copytree(model(predicted) / folder, model(predicted, trainer=trainer) / folder)
        settings = SHORT | shortest(trainer) | settings
        command(run_training_entry, "7", SECOND, "0", "-tr", trainer, *PLANS, *options, **settings)
        return model(predicted, SECOND, trainer)

    return train


@pytest.mark.slow
@pytest.mark.parametrize("trainer", [trainer for trainer in TRAINERS if trainer != TRAINER])
def test_every_trainer_trains_the_second_stage(second_stage, trainer):
    fold = second_stage(trainer) / "fold_0"
    checkpoint = torch.load(fold / "checkpoint_final.pth", map_location="cpu", weights_only=False)
    assert checkpoint["current_epoch"] == shortest(trainer)["num_epochs"]
    assert np.isfinite(checkpoint["logging"]["train_losses"]).all()
    first = next(weights for name, weights in checkpoint["network_weights"].items() if weights.ndim == 5)
    assert first.shape[1] == 1 + 2  # the image, and a channel for each foreground class
    assert json.loads((fold / "validation" / "summary.json").read_text(encoding="utf-8"))["metric_per_case"]


@pytest.mark.slow
def test_the_second_stage_resumes_and_predicts_with_nnunets_command(predicted, second_stage, command, tmp_path):
    second_stage(TRAINER)
    fold = second_stage(TRAINER, "--c", num_epochs=2) / "fold_0"
    assert torch.load(fold / "checkpoint_final.pth", weights_only=False)["current_epoch"] == 2
    images = predicted.raw / "imagesTs"
    predicting = ["-d", 7, "-i", images, "-f", 0, "-tr", TRAINER, *PLANS, "--disable_tta", "-npp", 0, "-nps", 0]
    command(predict_entry_point, *predicting, "-o", tmp_path / "first", "-c", FIRST)
    previous = ["-prev_stage_predictions", tmp_path / "first"]
    command(predict_entry_point, *predicting, "-o", tmp_path / "second", "-c", SECOND, *previous)
    (written,) = (tmp_path / "second").glob("*.nii.gz")
    expected = sitk.ReadImage(next(images.glob("*_0000.nii.gz")))
    assert sitk.ReadImage(written).GetSize() == expected.GetSize()


def test_batches_hold_image_and_prediction_at_one_place(predicted, tmp_path, monkeypatch, in_process):
    """Images that are a function of the prediction, 3 l for label l: in every view of a batch they still agree."""
    dataset = predicted.copy(tmp_path).use(monkeypatch)
    folders = {True: "nnUNetPlans_tiny_3d_fullres", False: "nnUNetPlans_tiny_3d_fullres_unlabeled"}
    rng = np.random.default_rng(0)
    for case in files_of(predictions(dataset)):
        file = dataset.base / folders[case in fold_of(dataset)["unlabeled"]] / f"{case}.b2nd"
        shape = blosc2.open(str(file)).shape
        coarse = rng.integers(0, 3, [-(-size // 6) for size in shape[1:]])
        labels = np.kron(coarse, np.ones((6, 6, 6), int))[tuple(map(slice, shape[1:]))].astype(np.uint8)
        for target, content in ((file, 3 * labels[None].astype(np.float32)), (predictions(dataset), labels)):
            target = target / f"{case}.b2nd" if target.is_dir() else target
            target.unlink()
            blosc2.asarray(np.ascontiguousarray(content), urlpath=str(target))
    trainer = get_trainer_from_args(dataset.name, SECOND, 0, "nnUNetTrainerFixMatch", dataset.plans, False, CPU)
    trainer.folder_with_segs_from_previous_stage = str(model(dataset) / "predicted_next_stage" / SECOND)
    trainer.initialize()
    torch.manual_seed(0)
    np.random.seed(0)
    loader = trainer.get_dataloaders()[0].data_loader
    agreeing, clean, faulty = [], 0, 0
    for _ in range(20):
        batch = next(loader)
        weak, strong = batch["unlabeled_weak"], batch["unlabeled_strong"]
        assert weak.shape == strong.shape == (2, 3, 16, 16, 16)
        one_hot = weak[:, 1:]
        assert set(one_hot.unique().tolist()) <= {0.0, 1.0} and (one_hot.sum(1) <= 1).all()
        inside = (weak[:, 0] / 3 - (weak[:, 0] / 3).round()).abs() < 0.02  # away from edges that resampling blurs
        label = 1 * one_hot[:, 0] + 2 * one_hot[:, 1]
        agreeing.append((weak[:, 0] / 3 - label).abs()[inside].lt(0.1).float().mean())
        for one, other in zip(one_hot, strong[:, 1:], strict=True):
            assert set(other.unique().tolist()) <= {0.0, 1.0}  # no change of intensity
            clean += torch.equal(one, other)
            faulty += not torch.equal(one, other)
    assert np.mean(agreeing) > 0.99
    assert clean > 10 and faulty > 5


def test_a_prediction_of_another_shape_is_named(predicted, tmp_path, monkeypatch):
    folder = predicted.base / "nnUNetPlans_tiny_3d_fullres_unlabeled"
    case = sorted(unlabeled_cases(predicted))[0]
    pool = UnlabeledPool({case: str(folder / f"{case}.b2nd")}, tmp_path)
    blosc2.asarray(np.zeros((3, 3, 3), np.uint8), urlpath=str(tmp_path / f"{case}.b2nd"))
    with pytest.raises(InputError, match=f"{case}.*predict_next_stage"):
        pool.load_prediction(case, pool.load_image(case).shape[1:])


@pytest.mark.slow
def test_the_command(dataset):
    """By the command itself, with its own processes; fold 1 hides no label."""
    done = subprocess.run(
        [Path(sys.executable).parent / "nnunet_ssl", "predict_next_stage", "-d", "7", "-tr", TRAINER,
         "-p", "nnUNetPlans_tiny", "-f", "1", "-device", "cpu", "-np", "1"],
        capture_output=True, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "fold 1: 5 unlabeled cases, 5 to predict" in done.stdout
    assert set(files_of(predictions(dataset, 1))) == unlabeled_cases(dataset)


def test_several_folds_after_one_option():
    given = ["predict_next_stage", "-f", "0", "1", "-d", "7"]
    assert spread(given, typer.main.get_command(app)) == ["predict_next_stage", "-f", "0", "-f", "1", "-d", "7"]


def test_the_second_stage_is_estimated_with_the_predictions_of_the_first(predicted, monkeypatch, tmp_path):
    dataset = predicted.copy(tmp_path).use(monkeypatch)
    before = sorted((dataset.root / "results").rglob("*"))
    arguments = {"plans": dataset.plans, "device": "cpu", "config": json.dumps(SHORT)}
    found = estimate(7, SECOND, TRAINER, **arguments)
    assert found["phases"][-1]["step_s"] > 0
    assert sorted((dataset.root / "results").rglob("*")) == before
    shutil.rmtree(model(dataset, trainer="nnUNetTrainerUAMT"), ignore_errors=True)  # of other tests
    with pytest.raises(InputError, match="predict_next_stage|train all folds of 3d_lowres") as refusal:
        estimate(7, SECOND, "UAMT", **arguments)
    assert "nnunet_ssl_estimate_" not in str(refusal.value)
