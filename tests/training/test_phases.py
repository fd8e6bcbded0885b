"""Phases of a training: what starts anew, and the pseudo-labels that each of them has."""

import shutil
import signal
from pathlib import Path

import blosc2
import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from short_trainings import CPU, SHORT, interrupt, trainer_of

from nnunet_ssl.errors import InputError
from nnunet_ssl.networks.net import unwrap
from nnunet_ssl.training.trainer import SemiSupervisedTrainer


@pytest.fixture
def dataset(phantom_3d, tmp_path, monkeypatch):
    """Without workers, so that runs repeat, and without nnU-Net's picture of each epoch."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setattr("nnunet_ssl.training.progress.ProgressLogger.plot_progress_png", lambda *args: None)
    return phantom_3d.copy(tmp_path).use(monkeypatch)


def resume(dataset, name):
    """A trainer with the state of the latest checkpoint."""
    trainer = trainer_of(dataset, name, resume=True)
    trainer.load_checkpoint(f"{trainer.output_folder}/checkpoint_latest.pth")
    return trainer


def test_phases_restart_the_learning_rate_and_the_momentum(dataset, monkeypatch):
    settings = SHORT.replace("num_epochs: 3", "num_epochs: 4")
    monkeypatch.setenv("nnUNet_ssl_config", f"{{{settings}, rounds: 2}}")
    trainer = trainer_of(dataset, "nnUNetTrainerSelfTraining")
    trainer.initialize()
    assert trainer.phases.starts == [2, 3]
    seen = []
    losses = trainer.method.losses

    def looked_at(net, labeled, unlabeled, now):
        seen.append((now.epoch, now.phase, trainer.optimizer.param_groups[0]["lr"], len(trainer.optimizer.state)))
        return losses(net, labeled, unlabeled, now)

    trainer.method.losses = looked_at
    trainer.run_training()
    assert [(epoch, phase) for epoch, phase, *_ in seen] == [(0, 0)] * 2 + [(1, 0)] * 2 + [(2, 1)] * 2 + [(3, 2)] * 2
    rate = trainer.initial_lr
    assert [lr for *_, lr, _ in seen[::2]] == pytest.approx([rate, rate * 0.5**0.9, rate, rate])
    assert [states > 0 for *_, states in seen] == [False, True, True, True, False, True, False, True]


def test_a_phase_begins_once_when_a_run_was_stopped_ahead_of_its_first_step(dataset, monkeypatch):
    monkeypatch.setenv("nnUNet_ssl_config", f"{{{SHORT}, first_round: 0.4}}")
    trainer = trainer_of(dataset, "nnUNetTrainerSelfTraining")
    begun = []
    monkeypatch.setattr(type(trainer).method, "begin_phase", lambda self, net, phase: begun.append(phase))

    def stop_at_its_start(self):
        super(type(self), self).on_train_epoch_start()
        if self.current_epoch == 1:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(type(trainer), "on_train_epoch_start", stop_at_its_start, raising=False)
        with pytest.raises(SystemExit):
            trainer.run_training()
    assert begun == []
    resumed = resume(dataset, "nnUNetTrainerSelfTraining")
    resumed.run_training()
    assert begun == [1]


def test_each_phase_has_pseudo_labels_of_the_student_as_it_was(dataset, monkeypatch):
    """All unlabeled cases, predicted by nnU-Net with the weights of the epoch before; then batches hold them."""
    settings = SHORT.replace("num_epochs: 3", "num_epochs: 4")
    monkeypatch.setenv("nnUNet_ssl_config", f"{{{settings}, rounds: 2}}")
    trainer = trainer_of(dataset, "nnUNetTrainerSelfTraining")
    keys = []
    step = type(trainer).train_step
    monkeypatch.setattr(type(trainer), "train_step", lambda self, batch: keys.append({*batch}) or step(self, batch))
    monkeypatch.setattr("nnunet_ssl.training.pseudo_labels.single_components", lambda *args: [])
    at_end = {}

    def on_epoch_end(self):
        super(type(self), self).on_epoch_end()
        at_end[self.current_epoch] = {k: v.clone() for k, v in unwrap(self.network).state_dict().items()}

    monkeypatch.setattr(type(trainer), "on_epoch_end", on_epoch_end, raising=False)
    trainer.run_training()
    first = {"data", "target", "keys"}
    assert keys == [first] * 4 + [first | {"unlabeled_strong", "unlabeled_target", "unlabeled_cases"}] * 4
    folder = Path(trainer.output_folder) / "pseudo_labels"
    images = dataset.base / f"{dataset.plans}_3d_fullres_unlabeled"
    cases = sorted(file.name for file in images.glob("*.b2nd"))
    predictor = nnUNetPredictor(device=CPU, use_mirroring=False, perform_everything_on_device=False, allow_tqdm=False)
    for phase, epoch in ((1, 2), (2, 3)):
        assert sorted(file.name for file in (folder / f"phase_{phase}").glob("*.b2nd")) == cases
        network = unwrap(trainer.network)
        network.load_state_dict(at_end[epoch])
        predictor.manual_initialization(
            network, trainer.plans_manager, trainer.configuration_manager, None, trainer.dataset_json, "", None
        )
        trainer.set_deep_supervision_enabled(False)
        for case in cases[:2]:
            image = torch.from_numpy(blosc2.open(str(images / case))[:])
            expected = predictor.predict_sliding_window_return_logits(image).argmax(0)
            assert np.array_equal(blosc2.open(str(folder / f"phase_{phase}" / case))[:], expected)


def test_a_run_stopped_while_it_labels_does_so_again(dataset, monkeypatch):
    monkeypatch.setenv("nnUNet_ssl_config", f"{{{SHORT}, first_round: 0.4}}")
    trainer = trainer_of(dataset, "nnUNetTrainerSelfTraining")
    folder = Path(trainer.output_folder) / "pseudo_labels" / "phase_1"
    predict = nnUNetPredictor.predict_sliding_window_return_logits

    def stopped_at_the_third(self, image):
        if len(list(folder.glob("*.b2nd"))) == 2:
            signal.raise_signal(signal.SIGTERM)
        return predict(self, image)

    with monkeypatch.context() as patched:
        patched.setattr(nnUNetPredictor, "predict_sliding_window_return_logits", stopped_at_the_third)
        with pytest.raises(SystemExit):
            trainer.run_training()
    assert len(list(folder.glob("*.b2nd"))) == 3  # the one at hand is finished
    (folder / "rest.b2nd").write_bytes(b"of a run that was cut off")
    resumed = resume(dataset, "nnUNetTrainerSelfTraining")
    assert resumed.current_epoch == 1
    resumed.run_training()
    images = dataset.base / f"{dataset.plans}_3d_fullres_unlabeled"
    assert {file.name for file in folder.glob("*.b2nd")} == {file.name for file in images.glob("*.b2nd")}


def test_a_resume_without_the_pseudo_labels_says_so(dataset, monkeypatch):
    monkeypatch.setenv("nnUNet_ssl_config", f"{{{SHORT}, first_round: 0.4}}")
    trainer = trainer_of(dataset, "nnUNetTrainerSelfTraining")
    interrupt(trainer, 2, monkeypatch)
    shutil.rmtree(Path(trainer.output_folder) / "pseudo_labels")
    resumed = resume(dataset, "nnUNetTrainerSelfTraining")
    with pytest.raises(InputError, match=r"have no pseudo-label in .*phase_1 .*train from the start"):
        resumed.run_training()


@pytest.mark.parametrize("name", ["BCP", "CutMix"])
def test_no_unlabeled_patch_comes_before_it_is_read(name, dataset, monkeypatch):
    monkeypatch.setenv("nnUNet_ssl_config", f"{{{SHORT}}}")
    trainer = trainer_of(dataset, f"nnUNetTrainer{name}")
    keys, step, base = [], SemiSupervisedTrainer.train_step, SemiSupervisedTrainer
    monkeypatch.setattr(base, "train_step", lambda self, batch: keys.append({*batch}) or step(self, batch))
    interrupt(trainer, 1, monkeypatch)
    first = {"data", "target", "keys"}
    assert trainer.phases.starts == [2] and keys == [first] * 2
    resumed = resume(dataset, f"nnUNetTrainer{name}")
    resumed.run_training()
    later = first | {"unlabeled_weak", "unlabeled_strong", "unlabeled_cases"}
    assert keys == [first] * 4 + [later] * 2


def test_a_phase_that_begins_needs_no_labels_of_the_one_before(dataset, monkeypatch):
    settings = SHORT.replace("num_epochs: 3", "num_epochs: 4")
    monkeypatch.setenv("nnUNet_ssl_config", f"{{{settings}, rounds: 2}}")
    trainer = trainer_of(dataset, "nnUNetTrainerSelfTraining")
    interrupt(trainer, 3, monkeypatch)
    folder = Path(trainer.output_folder) / "pseudo_labels"
    shutil.rmtree(folder / "phase_1")
    resumed = resume(dataset, "nnUNetTrainerSelfTraining")
    resumed.run_training()
    assert [phase.name for phase in folder.iterdir()] == ["phase_2"]
