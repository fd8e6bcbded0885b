"""All that a method logs reaches nnU-Net's further loggers, such as the one for Weights & Biases, where it is on."""

from types import SimpleNamespace

import pytest
from nnunetv2.training.logging import nnunet_logger
from short_trainings import SHORT, checkpoint, train

pytestmark = pytest.mark.usefixtures("in_one_process_without_pictures")


class Run:
    """Stands in for a run of wandb."""

    step = 0

    def __init__(self):
        self.logged, self.config, self.summary = {}, {}, {}

    def log(self, values, step):
        for name, value in values.items():
            self.logged.setdefault(name, {})[step] = value


@pytest.fixture
def runs(monkeypatch):
    """Those begun, with a stand-in for wandb in nnU-Net's own logger."""
    begun = []
    stub = SimpleNamespace(init=lambda **arguments: begun.append(Run()) or begun[-1])
    monkeypatch.setattr(nnunet_logger, "wandb", stub)
    return begun


@pytest.mark.parametrize("method", ["UAMT", "DHC"])
def test_every_term_of_every_epoch_reaches_wandb(phantom_3d, tmp_path, monkeypatch, runs, method):
    monkeypatch.setenv("nnUNet_wandb_enabled", "1")
    dataset = phantom_3d.copy(tmp_path).use(monkeypatch)
    trainer = train(dataset, monkeypatch, SHORT, name=f"nnUNetTrainer{method}")
    [run] = runs
    terms = trainer.logger.local_logger.terms()
    assert "supervised" in terms and sum(name.startswith("predicted_share[") for name in terms) == 2
    for name, values in terms.items():
        sent = run.logged[name.removesuffix("]").replace("[", "/")]
        assert sent == dict(enumerate(values)), name
    assert run.logged.keys() >= {"train_losses", "mean_fg_dice"}  # nnU-Net's own are there as ever
    assert run.config["nnunet_ssl"]["method"] == trainer.hyperparameters and run.config["nnunet_ssl"]["seed"] == 0
    assert checkpoint(trainer)["logging"]["semi_supervised/supervised"] == terms["supervised"]


def test_nothing_is_sent_where_nobody_switched_it_on(phantom_3d, tmp_path, monkeypatch, runs):
    monkeypatch.delenv("nnUNet_wandb_enabled", raising=False)
    trainer = train(phantom_3d.copy(tmp_path).use(monkeypatch), monkeypatch, SHORT)
    assert runs == [] and trainer.logger.loggers == []
    assert trainer.logger.local_logger.terms()["supervised"]
