"""Pseudo-labels that leave voxels out: what counts in a training is what the method says that it knows."""

import json
import pickle
from dataclasses import replace
from functools import partial
from pathlib import Path

import blosc2
import numpy as np
import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from short_trainings import SHORT, checkpoint, equal, trainer_of, whole_and_resumed
from workbench import output

from nnunet_ssl.methods.self_training import SelfTraining
from nnunet_ssl.training.pseudo_labels import unknown_label

NAME = "nnUNetTrainerSelfTraining"
SETTINGS = f"{{{SHORT}, first_round: 0.4}}"


class Certain(SelfTraining):
    """Self-training on the half of the voxels that the student is most certain of."""

    def known_voxels(self, case, logits):
        certain = logits.abs().amax(0)
        return certain > certain.median()


class Everything(SelfTraining):
    def known_voxels(self, case, logits):
        return torch.ones_like(logits[0], dtype=torch.bool)


def with_ignore_label(dataset):
    """The same as one whose annotation might have been sparse."""
    for file in (dataset.base / "dataset.json", dataset.raw / "dataset.json"):
        content = json.loads(file.read_text(encoding="utf-8"))
        content["labels"]["ignore"] = 3
        file.write_text(json.dumps(content), encoding="utf-8")
    for file in dataset.base.glob("*_[23]d*/*.pkl"):
        properties = pickle.loads(file.read_bytes())
        if locations := properties.get("class_locations"):  # where nnU-Net's preprocessing saw any annotation
            locations[-1, 0, 1, 2] = np.concatenate([found for found in locations.values() if len(found)])
            file.write_bytes(pickle.dumps(properties))
    return dataset


KINDS = pytest.mark.parametrize("ignore", [False, True], ids=["dense", "ignore"])
DATASETS = pytest.mark.parametrize("kind", ["phantom_3d", "phantom_2d_regions"])


@pytest.fixture
def made(phantom_3d, phantom_2d_regions, tmp_path, monkeypatch, in_one_process_without_pictures):
    """Factory of trainers of a method with known voxels, in 3D with classes or 2D with regions."""

    def make(kind, ignore=False, method=Certain, resume=False, deep_supervision=True):
        if not (copy := tmp_path / kind).is_dir():
            copy.mkdir()
            phantom = phantom_3d if kind == "phantom_3d" else phantom_2d_regions
            dataset = phantom.copy(copy).use(monkeypatch)
            make.dataset = with_ignore_label(dataset) if ignore else dataset
        monkeypatch.setenv("nnUNet_ssl_config", SETTINGS)
        configuration = "3d_fullres" if kind == "phantom_3d" else "2d"
        trainer = trainer_of(make.dataset, NAME, configuration, resume=resume)
        trainer.settings = replace(trainer.settings, chosen=method)
        trainer.enable_deep_supervision = deep_supervision
        return trainer

    return make


def nnunets_own(trainer):
    """What nnU-Net builds for a data set with an ignore label, written out."""
    dice = {"batch_dice": trainer.configuration_manager.batch_dice, "smooth": 1e-5, "ddp": False}
    if trainer.label_manager.has_regions:
        options = {"use_ignore_label": True, "dice_class": MemoryEfficientSoftDiceLoss}
        loss = DC_and_BCE_loss({}, dice | {"do_bg": True}, **options)
    else:
        options = {"ignore_label": 3, "dice_class": MemoryEfficientSoftDiceLoss}
        loss = DC_and_CE_loss(dice | {"do_bg": False}, {}, **options)
    return DeepSupervisionWrapper(loss, trainer.loss.weight_factors) if trainer.enable_deep_supervision else loss


@DATASETS
@KINDS
@pytest.mark.parametrize("deep_supervision", [True, False], ids=["scales", "one_scale"])
def test_only_known_voxels_count(made, kind, ignore, deep_supervision, monkeypatch):
    trainer = made(kind, ignore, deep_supervision=deep_supervision)
    seen = []
    losses = Certain.losses

    def look(self, net, labeled, unlabeled, now):
        if now.phase and not seen:
            seen.append(unlabeled.target)
        return losses(self, net, labeled, unlabeled, now)

    monkeypatch.setattr(Certain, "losses", look)
    trainer.run_training()
    (target,) = seen
    task, regions = trainer.method.task, trainer.label_manager.has_regions
    assert target.ignore_label == 3
    assert len(target.scales) == (len(trainer._get_deep_supervision_scales()) if deep_supervision else 1)
    labels, known = target.labels, target.annotated
    channels = len(task.channels)
    assert 0.2 < known.float().mean() < 0.9  # half of the case; patches reach beyond it
    assert labels.shape[1:] == ((channels, 32, 32) if regions else (16, 16, 16))
    assert labels.max() < (2 if regions else channels)
    torch.manual_seed(0)
    scales = [torch.randn(len(t), channels, *t.shape[2:], requires_grad=True) for t in target.scales]
    loss = trainer.method.supervised(output(scales, regions), target)
    assert torch.equal(
        loss, nnunets_own(trainer)(*((scales, target.scales) if deep_supervision else (scales[0], target.scales[0])))
    )
    loss.backward()
    gradient = scales[0].grad.abs().sum(1)
    assert (gradient[~known] == 0).all() and (gradient[known] > 0).all()


@pytest.mark.parametrize(
    ("kind", "ignore"), [("phantom_3d", False), ("phantom_3d", True), ("phantom_2d_regions", True)]
)
def test_labels_of_which_all_is_known_train_as_those_without_a_word(made, kind, ignore):
    """The weights are those of self-training, but for what a mask of ones changes in float32 where there was none."""
    weights = []
    for method in (SelfTraining, Everything):
        trainer = made(kind, ignore, method)
        trainer.run_training()
        assert (trainer.method.supervised.partial_loss is trainer.loss) == (ignore or method is SelfTraining)
        weights.append(checkpoint(trainer)["network_weights"])
    assert not ignore or equal(*weights)
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-3, atol=1e-5)


@DATASETS
def test_files_hold_the_label_after_the_last_for_what_is_unknown(made, kind):
    trainer = made(kind)
    trainer.run_training()
    unknown = unknown_label(trainer.label_manager)
    assert unknown == 3
    files = sorted((Path(trainer.output_folder) / "pseudo_labels" / "phase_1").glob("*.b2nd"))
    assert len(files) == 5
    for file in files:
        labels = blosc2.open(str(file))[:]
        assert labels.max() == unknown and 0.4 < (labels == unknown).mean() < 0.6


@DATASETS
def test_a_resume_within_a_phase_ends_with_the_same_bits(made, kind, monkeypatch):
    whole, resumed = whole_and_resumed(partial(made, kind), monkeypatch)
    assert resumed.phases.starts == [1]
    resumed.run_training()
    again = checkpoint(resumed)
    for part in ("network_weights", "optimizer_state"):
        assert equal(again[part], whole[part])


def test_no_mask_is_an_error_that_names_the_case(made, monkeypatch):
    monkeypatch.setattr(Certain, "known_voxels", lambda self, case, logits: logits[0])
    trainer = made("phantom_3d")
    with pytest.raises(
        ValueError, match=r"phantom_004: known_voxels gives torch.float32 .* not bool of \(18, 24, 24\)"
    ):
        trainer.run_training()
