"""Lean steps in nnU-Net's loop, and where there are none."""

import pytest
from short_trainings import SHORT, trainer_of
from torch import nn

from nnunet_ssl.errors import InputError
from nnunet_ssl.training.lean import patches_at_once


@pytest.fixture
def trainer(phantom_3d, tmp_path, monkeypatch, in_one_process_without_pictures):
    monkeypatch.setenv("nnUNet_ssl_config", f"{{{SHORT}, lean: true}}")
    return trainer_of(phantom_3d.copy(tmp_path).use(monkeypatch), "nnUNetTrainerCPS")


def test_both_networks_run_as_many_patches_again_as_a_stock_step_has(trainer):
    sizes = []
    trainer.initialize()
    trainer.method.twin.register_forward_hook(lambda module, images, out: sizes.append(len(images[0])))
    trainer.run_training()
    assert trainer.net.at_once == trainer.method.second.at_once == trainer.batch_size == 2
    assert set(sizes) == {2}  # of the four of either stream


def test_several_gpus_and_batch_normalization_are_refused(trainer):
    trainer.initialize()
    trainer.is_ddp = True
    with pytest.raises(InputError, match="lean: true .* is for one GPU"):
        patches_at_once(trainer)
    trainer.is_ddp = False
    trainer.network = nn.Sequential(nn.BatchNorm3d(2))
    with pytest.raises(InputError, match="batch normalization"):
        patches_at_once(trainer)
