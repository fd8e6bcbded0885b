"""Labeled patches that any method gets mixed, a method without unlabeled scans, and nnU-Net's stronger augmentation."""

import json
import shutil

import pytest
import torch
from batchgeneratorsv2.transforms.spatial.rot90 import Rot90Transform
from battery import METHODS
from short_trainings import SHORT, batches_of, checkpoint, equal, train, trainer_of, whole_and_resumed
from tiny_steps import LATE, batches, gradients, ready

from nnunet_ssl.augmentation.mixing import BoxMixing, joined
from nnunet_ssl.data.origin import read_origin
from nnunet_ssl.errors import InputError

MIX = "nnUNetTrainerSupervisedMix"


@pytest.fixture
def dataset(phantom_3d, tmp_path, monkeypatch, in_one_process_without_pictures):
    return phantom_3d.copy(tmp_path).use(monkeypatch)


def images_and_targets(labeled):
    return [labeled.image, *labeled.target.scales]


def test_a_batch_has_its_patches_clean_and_mixed_until_the_end_of_mixing(dataset, monkeypatch):
    trainer = trainer_of_settings(dataset, monkeypatch, "nnUNetTrainerBCP", "mix_labeled: 1, mix_labeled_until: 0.5")
    seen = batches_of(trainer, monkeypatch)
    trainer.run_training()
    assert [len(labeled.image) for labeled, _ in seen] == [4] * 3 + [2] * 3
    for labeled, _ in seen[:3]:
        assert [len(each) for each in (*images_and_targets(labeled), labeled.cases)] == [4] * 4
        clean, mixed = labeled.image.split(2)
        pasted = clean != mixed
        assert 0 < pasted.float().mean() < 0.5 and torch.equal(mixed[pasted], clean.roll(1, 0)[pasted])
        assert labeled.cases[:2] == labeled.cases[2:]


def test_nothing_is_mixed_unasked(dataset, monkeypatch):
    trainer = trainer_of_settings(dataset, monkeypatch, "nnUNetTrainerMeanTeacher", "mix_labeled_until: 0.5")
    seen = batches_of(trainer, monkeypatch)
    trainer.run_training()
    assert {len(labeled.image) for labeled, _ in seen} == {2}


def trainer_of_settings(dataset, monkeypatch, name, settings):
    monkeypatch.setenv("nnUNet_ssl_config", f"{{{SHORT}, {settings}}}")
    return trainer_of(dataset, name)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_every_method_takes_more_labeled_than_unlabeled_patches(method):
    net, made = ready(method, 2, 3, False)
    labeled, unlabeled = batches(2, 3, False)
    terms = made.losses(net, joined(labeled, BoxMixing(1.0)(labeled)), unlabeled, LATE)
    sum(terms.values()).backward()
    made.after_step(net, LATE)
    assert all(term.isfinite() for term in terms.values())
    assert all(gradient.isfinite().all() for gradient in gradients(net).values())


@pytest.mark.parametrize(
    ("name", "settings"),
    [("nnUNetTrainerMeanTeacher", "mix_labeled: 0.5, augmentation: da5"), (MIX, "augmentation: da5")],
)
def test_a_resumed_training_draws_what_the_whole_one_drew(dataset, monkeypatch, name, settings):
    def make(resume=False):
        monkeypatch.setenv("nnUNet_ssl_config", f"{{{SHORT}, {settings}}}")
        return trainer_of(dataset, name, resume=resume)

    whole, resumed = whole_and_resumed(make, monkeypatch)
    resumed.run_training()
    assert equal(dict(checkpoint(resumed)["network_weights"]), dict(whole["network_weights"]))


@pytest.mark.parametrize("name", ["nnUNetTrainerSupervised", "nnUNetTrainerMeanTeacher"])
def test_da5_is_nnunets_augmentation_of_both_streams(dataset, monkeypatch, name):
    turns = {}
    for augmentation in ("default", "da5"):
        trainer = trainer_of_settings(dataset, monkeypatch, name, f"augmentation: {augmentation}")
        trainer.initialize()
        loader = trainer.get_dataloaders()[0].data_loader
        streams = [getattr(loader, "labeled", loader).transforms.transforms]
        if hasattr(loader, "unlabeled"):
            streams.append(loader.unlabeled.views.geometry)
        turns[augmentation] = [any(turns_by_90(transform) for transform in stream) for stream in streams]
    count = 1 if name.endswith("Supervised") else 2
    assert turns == {"default": [False] * count, "da5": [True] * count}


@pytest.mark.parametrize("name", ["nnUNetTrainerSupervised", "nnUNetTrainerMeanTeacher"])
def test_da5_is_refused_for_patches_that_are_too_thin_for_it(dataset, monkeypatch, name):
    file = dataset.base / f"{dataset.plans}.json"
    plans = json.loads(file.read_text(encoding="utf-8"))
    plans["configurations"]["3d_fullres"]["patch_size"][0] = 4
    file.write_text(json.dumps(plans), encoding="utf-8")
    trainer = trainer_of_settings(dataset, monkeypatch, name, "augmentation: da5")
    with pytest.raises(InputError, match="da5 is for patches of 6 voxels or more .* 4 x .*: leave it out"):
        trainer.initialize()


def test_a_single_labeled_patch_on_a_gpu_is_refused_where_it_was_to_be_mixed(dataset, monkeypatch):
    file = dataset.base / f"{dataset.plans}.json"
    plans = json.loads(file.read_text(encoding="utf-8"))
    plans["configurations"]["3d_fullres"]["batch_size"] = 1
    file.write_text(json.dumps(plans), encoding="utf-8")
    for name, settings in ((MIX, "probability: 1"), ("nnUNetTrainerMeanTeacher", "mix_labeled: 1")):
        with pytest.raises(NotImplementedError, match="there is one on a GPU: raise batch_size in the plans"):
            trainer_of_settings(dataset, monkeypatch, name, settings).initialize()
    trainer_of_settings(dataset, monkeypatch, "nnUNetTrainerMeanTeacher", "mix_labeled: 0").initialize()


def turns_by_90(transform):
    return isinstance(getattr(transform, "transform", transform), Rot90Transform)


def test_supervised_mix_trains_without_a_folder_of_unlabeled_scans(dataset, monkeypatch):
    [folder] = dataset.base.glob("*_unlabeled")
    shutil.rmtree(folder)
    trainer = train(dataset, monkeypatch, SHORT, name=MIX)
    assert trainer.phases.starts == [2]
    origin = read_origin(trainer.output_folder)
    assert origin.unlabeled == () and origin.train
    assert {name.partition("[")[0] for name in trainer.logger.local_logger.terms()} == {
        "supervised", "mixed", "predicted_share",
    }  # fmt: skip


def test_supervised_mix_opens_no_unlabeled_scan(dataset, monkeypatch):
    """They are there, but nobody asks for them."""
    monkeypatch.setattr("nnunet_ssl.data.loader.unlabeled_files", None)
    monkeypatch.setattr("nnunet_ssl.training.unlabeled_pool.unlabeled_files", None)
    trainer = trainer_of_settings(dataset, monkeypatch, MIX, "probability: 1")
    seen = batches_of(trainer, monkeypatch)
    trainer.run_training()
    assert all(unlabeled.weak is unlabeled.strong is unlabeled.target is None for _, unlabeled in seen)
    assert [len(labeled.image) for labeled, _ in seen] == [2] * 6 and trainer.unlabeled_share() == 0
