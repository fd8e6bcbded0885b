"""Whose network predicted: a second stage takes no prediction of one that learned what its fold hides."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from nnunetv2.run.run_training import get_trainer_from_args
from two_stages import CPU, SECOND, SHORT, TRAINER, fold_of, model, predict, predictions, refused, setup_error

from nnunet_ssl.data.origin import read_origin
from nnunet_ssl.errors import InputError


def edit_fold(dataset, **lists) -> None:
    file = dataset.base / "splits_final.json"
    splits = json.loads(file.read_text(encoding="utf-8"))
    splits[0] |= lists
    file.write_text(json.dumps(splits), encoding="utf-8")


def test_a_first_stage_that_learned_what_its_fold_hides_now_predicts_nothing(dataset, in_process):
    fold = fold_of(dataset)
    case = fold["train"][0]
    edit_fold(dataset, train=fold["unlabeled"], unlabeled=[case])
    message = refused(dataset)
    assert f"has learned 1 label(s) that fold 0 now hides or validates on ({case})" in message
    assert message.endswith("train fold 0 of 3d_lowres anew, without --c.")
    assert not predictions(dataset).exists()


@pytest.fixture
def ready(predicted, tmp_path, monkeypatch, in_process):
    """All that the second stage of fold 0 needs."""
    monkeypatch.setenv("nnUNet_ssl_config", json.dumps(SHORT))
    return predicted.copy(tmp_path).use(monkeypatch)


def test_predictions_tell_what_their_network_was_trained_on(ready):
    mark = json.loads((predictions(ready) / "first_stage.json").read_text(encoding="utf-8"))
    assert mark["origin"] == read_origin(model(ready) / "fold_0").as_dict()
    assert mark["origin"]["hidden"] == fold_of(ready)["unlabeled"]


def test_the_second_stage_refuses_predictions_of_a_network_that_learned_what_is_hidden_now(ready, monkeypatch):
    """Even where other data are said to be meant."""
    fold = fold_of(ready)
    case = fold["train"][0]
    edit_fold(ready, train=fold["unlabeled"], unlabeled=[case])
    shutil.copy(next(predictions(ready).glob("*.b2nd")), predictions(ready) / f"{case}.b2nd")
    for accept in (False, True):
        monkeypatch.setenv("nnUNet_ssl_config", json.dumps(SHORT | {"accept_other_data": accept}))
        message = setup_error(ready)
        assert f"The network that predicted {predictions(ready)} has learned 1 label(s)" in message
        assert f"({case})" in message and "train the first stage anew, then run `nnunet_ssl predict" in message


def test_the_second_stage_refuses_predictions_of_another_checkpoint(ready):
    shutil.copyfile(model(ready) / "fold_1/checkpoint_final.pth", model(ready) / "fold_0/checkpoint_final.pth")
    message = setup_error(ready)
    assert "was predicted by another checkpoint" in message and "predict_next_stage -d 7" in message


def test_predictions_of_another_split_must_be_said_to_be_meant(ready, monkeypatch, capsys):
    fold = fold_of(ready)
    (hidden,) = fold["unlabeled"]
    edit_fold(ready, train=[*fold["train"], hidden], unlabeled=[])
    message = setup_error(ready)
    assert f"by a network of another split: 1 case is now trained on ({hidden})" in message
    monkeypatch.setenv("nnUNet_ssl_config", json.dumps(SHORT | {"accept_other_data": True}))
    trainer = get_trainer_from_args(ready.name, SECOND, 0, TRAINER, ready.plans, False, CPU)
    trainer.run_training()
    assert "predicted by a network of another split" in capsys.readouterr().out
    assert read_origin(Path(trainer.output_folder)).learned == tuple(sorted([*fold["train"], hidden]))


def test_a_second_stage_has_learned_what_its_first_stage_has(ready):
    """It trains on a case less, which the first stage knows; hidden then, its own weights are refused, too."""
    first = model(ready) / "fold_0"
    (known,), val = fold_of(ready)["train"], fold_of(ready)["val"]
    checkpoint = torch.load(first / "checkpoint_final.pth", weights_only=False)
    origin = checkpoint["semi_supervised"]["origin"]
    origin["learned"] = sorted([*origin["learned"], "known"])
    torch.save(checkpoint, first / "checkpoint_final.pth")
    predict(ready)
    trainer = get_trainer_from_args(ready.name, SECOND, 0, TRAINER, ready.plans, False, CPU)
    trainer.run_training()
    assert read_origin(Path(trainer.output_folder)).learned == tuple(sorted([known, "known"]))
    edit_fold(ready, val=[*val, "known"])
    again = get_trainer_from_args(ready.name, SECOND, 0, TRAINER, ready.plans, True, CPU)
    with pytest.raises(InputError, match=r"has learned 1 label\(s\) .*\(known\)"):
        again.load_checkpoint(f"{trainer.output_folder}/checkpoint_final.pth")


def test_predictions_of_an_unknown_network_are_taken_only_where_no_label_is_hidden(ready, monkeypatch, capsys):
    """First-stage checkpoint and predictions of an earlier version."""
    file = model(ready) / "fold_0/checkpoint_final.pth"
    checkpoint = torch.load(file, weights_only=False)
    del checkpoint["semi_supervised"]["origin"]
    torch.save(checkpoint, file)
    predict(ready)
    assert "fold 0: " in (printed := capsys.readouterr().out) and "nobody can tell which labels" in printed
    assert "fold 0 hides 1" in setup_error(ready)
    monkeypatch.setenv("nnUNet_ssl_config", json.dumps(SHORT | {"accept_other_data": True}))
    get_trainer_from_args(ready.name, SECOND, 0, TRAINER, ready.plans, False, CPU).run_training()
    assert "does not tell which network predicted" in capsys.readouterr().out
