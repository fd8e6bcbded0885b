"""Strong views made on the device, here by a trainer that is told so on a CPU, where it otherwise does not."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from short_trainings import SHORT, batches_of, checkpoint, equal, trainer_of, whole_and_resumed

from nnunet_ssl.data.views import Views
from nnunet_ssl.training.strong_views import generator_of, made_on_device
from nnunet_ssl.training.trainer import SemiSupervisedTrainer

FIXMATCH = "nnUNetTrainerFixMatch"  # weak and strong views


@pytest.fixture
def dataset(phantom_3d, tmp_path, monkeypatch, in_one_process_without_pictures):
    return phantom_3d.copy(tmp_path).use(monkeypatch)


@pytest.fixture
def on_device(monkeypatch):
    """Trainers make strong views on their device, whatever it is."""
    monkeypatch.setattr(SemiSupervisedTrainer, "strong_views_on_device", lambda self: True)


def made(dataset, monkeypatch, settings="", **arguments):
    monkeypatch.setenv("nnUNet_ssl_config", f"{{{SHORT}{settings}}}")
    return trainer_of(dataset, **({"name": FIXMATCH} | arguments))


def test_a_cpu_leaves_strong_views_to_the_loaders_and_a_gpu_does_not(dataset, monkeypatch):
    trainer = made(dataset, monkeypatch)
    trainer.initialize()
    loader = trainer.get_dataloaders()[0].data_loader
    assert trainer._strong_views is None and len(loader.unlabeled.views.intensity) == 7
    assert not trainer.strong_views_on_device()
    trainer.device = torch.device("cuda")
    assert trainer.strong_views_on_device()


def test_the_device_makes_strong_views_of_the_weak_ones_that_the_loaders_give(dataset, monkeypatch, on_device):
    trainer = made(dataset, monkeypatch)
    seen, given = batches_of(trainer, monkeypatch), []
    step = trainer.train_step
    monkeypatch.setattr(trainer, "train_step", lambda batch: given.append(set(batch)) or step(batch))
    trainer.run_training()
    assert all("unlabeled_weak" in keys and "unlabeled_strong" not in keys for keys in given) and len(given) == 6
    changed = [
        not torch.equal(weak, strong) for _, each in seen for weak, strong in zip(each.weak, each.strong, strict=True)
    ]
    assert len(changed) == 12 and 4 <= sum(changed) < 12
    for _, unlabeled in seen:
        pairs = torch.stack((unlabeled.weak, unlabeled.strong)).flatten(2).unbind(1)
        assert all(torch.corrcoef(pair)[0, 1] > 0.7 for pair in pairs)
    assert "strong views are made on the device" in Path(trainer.log_file).read_text(encoding="utf-8")


def test_labeled_patches_are_nnunets_as_before(dataset, monkeypatch, on_device):
    trainer = made(dataset, monkeypatch)
    trainer.initialize()
    labeled = trainer.get_dataloaders()[0].data_loader.labeled
    assert len(Views(labeled.transforms, ("strong",)).intensity) == 7


@pytest.mark.parametrize("name", [FIXMATCH, "nnUNetTrainerSelfTraining"])
def test_a_resumed_training_draws_what_the_whole_one_drew(dataset, monkeypatch, on_device, name):
    whole, resumed = whole_and_resumed(lambda **how: made(dataset, monkeypatch, name=name, **how), monkeypatch)
    resumed.run_training()
    assert resumed._strong_views is not None
    last = checkpoint(resumed)
    assert equal(dict(last["network_weights"]), dict(whole["network_weights"]))
    states = [each["semi_supervised"]["random_states"][0]["strong_views"] for each in (last, whole)]
    assert torch.equal(*states) and not torch.equal(states[0], generator_of(0, 0).get_state())


def test_a_checkpoint_from_before_is_gone_on_from(dataset, monkeypatch):
    trainer = made(dataset, monkeypatch)
    trainer.initialize()
    state = trainer.random_state()
    own = state.pop("strong_views")
    trainer.restore_random_state(state)
    assert torch.equal(trainer.strong_draws.get_state(), own)


def test_da5_has_changes_that_the_device_does_not_know(dataset, monkeypatch, on_device):
    trainer = made(dataset, monkeypatch, ", augmentation: da5")
    trainer.initialize()
    loader = trainer.get_dataloaders()[0].data_loader
    assert trainer._strong_views is None and "unlabeled_strong" in next(loader)
    expected = "strong views are made by the loaders, for want of OneOfTransform on the device"
    assert expected in Path(trainer.log_file).read_text(encoding="utf-8")


def test_in_a_cascade_and_with_masks_only_grey_levels_of_the_object_are_changed():
    transforms = nnUNetTrainer.get_training_transforms(
        (16, 16), (-0.5, 0.5), None, (0, 1), False, [True, False], is_cascaded=True, foreground_labels=[1, 2, 3]
    )
    trainer = SimpleNamespace(
        strong_views_on_device=lambda: True,
        configuration_manager=SimpleNamespace(patch_size=[16, 16]),
        num_input_channels=5,
        strong_draws=generator_of(0, 0),
        device=torch.device("cpu"),
        print_to_log_file=print,
    )
    views = Views(transforms, ("weak", "strong"))
    make = made_on_device(trainer, views)
    assert (make.channels, list(make.masked), views.intensity) == (2, [0], [])
    assert made_on_device(trainer, Views(transforms, ("weak",))) is None


def test_every_rank_and_every_seed_has_draws_of_its_own():
    first = [torch.rand(3, generator=generator_of(seed, rank)).tolist() for seed in (0, 1) for rank in (0, 1)]
    assert len({tuple(drawn) for drawn in first}) == 4
    assert first[0] == torch.rand(3, generator=generator_of(0, 0)).tolist()
    assert torch.rand(1, generator=generator_of(None, 0)) != torch.rand(1, generator=generator_of(None, 0))
    np.random.seed(0)
    torch.manual_seed(0)
    assert first[0] != torch.rand(3).tolist()
