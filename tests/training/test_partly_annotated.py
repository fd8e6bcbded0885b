"""Trainings on cases in which structures were not annotated, from `dataset.json` to the measured validation."""

import json
import math
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.run.run_training import run_training
from short_trainings import CPU, batches_of, train, trainer_of
from torch import multiprocessing as mp
from two_ranks import train_rank
from workbench import Dataset, prepare

from nnunet_ssl.data.origin import Origin, data_differences
from nnunet_ssl.data.splits import make_splits
from nnunet_ssl.demo.phantom import write_phantom
from nnunet_ssl.errors import InputError
from nnunet_ssl.results.evaluation import evaluate_folders
from nnunet_ssl.training.pseudo_labels import single_components

pytestmark = pytest.mark.usefixtures("in_one_process_without_pictures")

SHORT = "num_epochs: 1, num_iterations_per_epoch: 2, num_val_iterations_per_epoch: 1, seed: 0"
LABELS = {"liver": 1, "kidney": 2}
FOLD = make_splits([f"phantom_{i:03d}" for i in range(4)], folds=2)[0]
TRAIN, VAL = FOLD["train"], FOLD["val"]
DECLARED = {TRAIN[0]: ["kidney"], VAL[0]: ["liver"]}


def write(raw: Path, **sizes) -> None:
    """A phantom in whose labels what is declared was never drawn."""
    write_phantom(raw, labeled=4, test=1, classes=3, shape=(18, 24, 24), **sizes)
    assert {file.name.removesuffix(".nii.gz") for file in (raw / "labelsTr").iterdir()} == {*TRAIN, *VAL}
    for case, names in DECLARED.items():
        file = str(raw / "labelsTr" / f"{case}.nii.gz")
        old = sitk.ReadImage(file)
        array = sitk.GetArrayFromImage(old)
        array[np.isin(array, [LABELS[name] for name in names])] = 0
        new = sitk.GetImageFromArray(array)
        new.CopyInformation(old)
        sitk.WriteImage(new, file)
    declare(raw / "dataset.json", DECLARED)


def declare(file: Path, declared: dict) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(content | {"not_annotated": declared}), encoding="utf-8")


@pytest.fixture(scope="module")
def partly(tmp_path_factory) -> Dataset:
    return prepare(tmp_path_factory.mktemp("partly"), "3d_fullres", [16, 16, 16], partial(write, unlabeled=2))


@pytest.fixture
def dataset(partly, tmp_path, monkeypatch) -> Dataset:
    return partly.copy(tmp_path).use(monkeypatch)


def log_of(folder: Path) -> str:
    return "".join(file.read_text(encoding="utf-8") for file in Path(folder).glob("training_log*"))


def with_training_cases(folder: Path, dataset: Dataset) -> Path:
    """The predictions of the validation, and for the training cases their labels."""
    for case in TRAIN:
        shutil.copy(dataset.raw / "labelsTr" / f"{case}.nii.gz", folder / "validation")
    shutil.copy(dataset.raw / "dataset.json", folder / "validation")
    return folder / "validation"


def summary_of(folder: Path) -> dict:
    return json.loads((Path(folder) / "validation" / "summary.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("method", ["Supervised", "MeanTeacher"])
def test_from_the_command_to_the_corrected_validation(dataset, monkeypatch, method):
    monkeypatch.setenv("nnUNet_ssl_config", f"{{{SHORT}}}")
    run_training(dataset.name, "3d_fullres", 0, f"nnUNetTrainer{method}", dataset.plans, device=CPU)
    model = f"nnUNetTrainer{method}__{dataset.plans}__3d_fullres"
    folder = dataset.root / "results" / dataset.name / model / "fold_0"
    log = log_of(folder)
    assert f"not annotated in 1 of 2 training cases: kidney in 1 case ({TRAIN[0]})" in log
    assert f"not annotated in 1 of 2 validation cases: liver in 1 case ({VAL[0]})" in log
    assert ("3 unlabeled cases" in log or method == "Supervised") and "nan" not in log.split("train_loss")[1][:40]
    summary = summary_of(folder)
    cases = {Path(case["reference_file"]).name: case["metrics"] for case in summary["metric_per_case"]}
    first, second = (cases[f"{case}.nii.gz"] for case in VAL)
    assert math.isnan(first["1"]["Dice"]) and not math.isnan(first["2"]["Dice"])
    assert summary["mean"]["1"]["Dice"] == second["1"]["Dice"]
    expected = (second["1"]["Dice"] + (first["2"]["Dice"] + second["2"]["Dice"]) / 2) / 2
    assert summary["foreground_mean"]["Dice"] == pytest.approx(expected)
    assert f"Mean Validation Dice without what was not annotated: {summary['foreground_mean']['Dice']}" in log
    measured = evaluate_folders(dataset.raw / "labelsTr", with_training_cases(folder, dataset))
    assert measured["not_annotated"] == {"liver": [VAL[0]], "kidney": [TRAIN[0]]}
    assert measured["metrics"]["dice"]["per_case"][VAL[0]]["liver"] is None
    origin = Origin.from_dict(json.loads((folder / "nnunet_ssl_origin.json").read_text(encoding="utf-8")), folder)
    assert origin.not_annotated == {TRAIN[0]: ["kidney"]}
    whole = replace(origin, not_annotated={})
    assert data_differences(whole, origin) == [f"not annotated in {TRAIN[0]}: nothing then, kidney now"]


def test_a_step_is_told_what_is_missing_in_each_patch(dataset, monkeypatch):
    monkeypatch.setenv("nnUNet_ssl_config", f"{{{SHORT}}}")
    trainer = trainer_of(dataset)
    seen = batches_of(trainer, monkeypatch)
    trainer.on_train_start()
    for _ in range(4):
        trainer.train_step(next(trainer.dataloader_train.loader))
    lacking = 0
    for labeled, _ in seen:
        rows = [[False, False, case == TRAIN[0]] for case in labeled.cases]
        lacking += sum(map(any, rows))
        # also where it lacks nothing: another rank's batch may, and all ranks must take the same way
        assert labeled.target.missing.shape == (2, 3, 1, 1, 1)
        assert labeled.target.missing.flatten(1).tolist() == rows
    assert lacking
    counts = trainer.method.task.voxel_counts()
    segmentation = np.asarray(trainer.get_tr_and_val_datasets()[0].load_case(TRAIN[1])[1][:])
    assert counts[0] == (segmentation <= 0).sum()  # of the case with all classes alone


def test_training_takes_partly_annotated_cases_alone_as_unlabeled_ones(dataset, monkeypatch, tmp_path):
    folder = dataset.base / f"{dataset.plans}_3d_fullres_unlabeled"
    folder.rename(tmp_path / "aside")
    trainer = train(dataset, monkeypatch, SHORT)
    assert "1 unlabeled cases: 0 of" in log_of(trainer.output_folder)
    assert "1 that are also labeled, where structures were not annotated" in log_of(trainer.output_folder)


def test_nnunets_pseudo_dice_and_loss_do_not_count_what_is_missing(dataset, monkeypatch):
    """A network that says liver everywhere: no false positives in a case where nobody drew it."""
    monkeypatch.setenv("nnUNet_ssl_config", f"{{{SHORT}}}")
    trainer = trainer_of(dataset, "nnUNetTrainerSupervised")
    trainer.initialize()
    for name, parameter in trainer.network.named_parameters():
        if "seg_layers" in name:
            parameter.data.zero_()
            if name.endswith("bias"):
                parameter.data[1:] = torch.tensor([9, -30])
    trainer.network.eval()
    image = torch.randn(2, 1, 16, 16, 16)
    labels = torch.zeros(2, 1, 16, 16, 16)
    scales = [labels[..., ::step, ::step, ::step] for step in (1, 2, 4)][: len(trainer._get_deep_supervision_scales())]
    found = {}
    for cases in ((VAL[0], VAL[0]), (VAL[0], VAL[1])):
        batch = {"data": image, "target": [scale.clone() for scale in scales], "keys": cases}
        found[cases] = trainer.validation_step(batch)
    assert found[VAL[0], VAL[0]]["fp_hard"].tolist() == [0, 0]
    assert found[VAL[0], VAL[1]]["fp_hard"].tolist() == [16**3, 0]
    assert found[VAL[0], VAL[0]]["loss"] == pytest.approx(-1, abs=0.01)  # the liver may be there: all is right
    assert found[VAL[0], VAL[1]]["loss"] > 1


def test_other_labels_than_declared_are_refused(dataset, monkeypatch):
    file = dataset.base / "dataset.json"
    declare(file, DECLARED | {TRAIN[1]: ["kidney"]})
    with pytest.raises(InputError, match=f"{TRAIN[1]}: its label has voxels of kidney, which .* not annotated there"):
        trainer_of(dataset).initialize()
    declare(file, {"phantom_099": ["kidney"]})
    with pytest.raises(InputError, match='"not_annotated" names phantom_099, no labeled'):
        trainer_of(dataset).initialize()


def test_components_are_counted_in_whole_labels_alone(dataset, monkeypatch):
    """Where the liver alone was drawn, all foreground is one component; this says nothing of other cases."""
    monkeypatch.setenv("nnUNet_ssl_config", "{" + SHORT.replace("epochs: 1", "epochs: 2") + ", first_round: 0.5}")
    asked = []
    monkeypatch.setattr(
        "nnunet_ssl.training.pseudo_labels.single_components",
        lambda segmentations, labels: single_components(asked.extend(segmentations) or asked, labels),
    )
    trainer_of(dataset, "nnUNetTrainerSelfTraining").run_training()
    assert len(asked) == 1 and (np.asarray(asked[0]) == 2).any()


def test_two_ranks_on_partly_annotated_cases(dataset, tmp_path):
    """Each rank has patches of its own, with and without missing classes; networks and states stay equal."""
    mp.spawn(train_rank, (2, dataset, "nnUNetTrainerMeanTeacher", tmp_path), nprocs=2)
    ranks = [torch.load(tmp_path / f"rank_{rank}", weights_only=True) for rank in range(2)]
    for part in ("net", "method"):
        for key, value in ranks[0][part].items():
            assert torch.isfinite(value).all() and torch.equal(value, ranks[1][part][key]), f"{part} {key}"
    lacking = [rank["missing"] for rank in ranks]
    assert any(one != other for one, other in zip(*lacking, strict=True))  # a step in which one rank alone lacks some
    (folder,) = (dataset.root / "results").glob("*/*/fold_0")
    assert f"kidney in 1 case ({TRAIN[0]})" in log_of(folder)
    assert (folder / "checkpoint_final.pth").is_file()
