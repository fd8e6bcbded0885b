"""Early stopping: when, from which epoch on, and what the record says."""

import json

import pytest
import torch
from lineages import fold_of, in_one_process, train

from nnunet_ssl.checkpoints import CHECKPOINT_KEY
from nnunet_ssl.data.origin import ORIGIN_FILE, Origin
from nnunet_ssl.training.patience import best_epoch, reason_to_stop


def test_the_best_epoch_is_the_first_of_the_highest():
    assert best_epoch([0.1, 0.5, 0.5, 0.2]) == 1
    assert best_epoch([0.9, 0.1, 0.3, 0.2], since=1) == 2
    assert best_epoch([float("nan"), 0.2, float("nan")]) == 1


@pytest.mark.parametrize(
    ("history", "patience", "since", "stops"),
    [
        ([0.5, 0.4, 0.4], 2, 0, True),
        ([0.5, 0.4], 2, 0, False),
        ([0.5, 0.4, 0.6, 0.5], 2, 0, False),
        ([0.5, 0.4, 0.4], None, 0, False),
        ([0.5, 0.4, 0.4], 2, 3, False),  # the last phase has not begun
        ([0.9, 0.4, 0.5, 0.4], 2, 1, False),  # the highest of the last phase is one epoch ago
        ([0.9, 0.5, 0.4, 0.4], 2, 1, True),
        ([], 1, 0, False),
        ([0.5] * 10, 2, 0, False),  # all ten epochs are done: no early stop
    ],
)
def test_a_training_stops_after_so_many_epochs_without_gain(history, patience, since, stops):
    reason = reason_to_stop(history, patience, 10, since)
    assert bool(reason) == stops


def test_the_reason_tells_when_and_why():
    assert reason_to_stop([0.5, 0.4, 0.4], 2, 10) == (
        "stopped early after 3 of 10 epochs: the moving pseudo Dice has not risen above the 0.5000 of epoch 0 for 2 "
        "epochs (patience: 2)"
    )


@pytest.mark.parametrize("trainer", ["nnUNetTrainerSupervised", "nnUNetTrainerMeanTeacher"])
def test_what_stopped_stands_in_checkpoint_record_and_log(phantom_3d, tmp_path, monkeypatch, trainer):
    dataset = phantom_3d.copy(tmp_path)
    dataset.use(monkeypatch)
    in_one_process(monkeypatch)
    monkeypatch.setattr(  # a pseudo Dice that never rises
        "nnunetv2.training.nnUNetTrainer.nnUNetTrainer.np.nanmean", lambda values, *args: 0.25
    )
    train(monkeypatch, trainer=trainer, num_epochs=9, patience=2)
    folder = fold_of(dataset, trainer)
    final = torch.load(folder / "checkpoint_final.pth", weights_only=False)
    assert final["current_epoch"] == 3 and len(final["logging"]["ema_fg_dice"]) == 3
    origin = Origin.from_dict(final[CHECKPOINT_KEY]["origin"], "x")
    assert origin.stopped.startswith("stopped early after 3 of 9 epochs") and origin.num_epochs == 9
    assert json.loads((folder / ORIGIN_FILE).read_text(encoding="utf-8"))["stopped"] == origin.stopped
    (log,) = folder.glob("training_log_*.txt")
    assert f"{origin.stopped}. checkpoint_final.pth is of epoch 2, the last." in log.read_text(encoding="utf-8")
