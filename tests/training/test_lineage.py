"""Weights that have learned labels which their fold hides or validates on now: no command takes them."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from lineages import SEMI, SHORT, TRAINERS, fold_of, hide, in_one_process, loaded, refused, set_split, split_of, train
from nnunetv2.run.run_training import get_trainer_from_args

from nnunet_ssl.data.origin import ORIGIN_FILE, read_origin
from nnunet_ssl.training.lineage import origin_in


@pytest.fixture
def dataset(trained, tmp_path, monkeypatch):
    in_one_process(monkeypatch)
    return trained.copy(tmp_path).use(monkeypatch)


def cut_off(dataset, trainer=SEMI) -> None:
    """As a run that was killed after its first epoch."""
    fold = fold_of(dataset, trainer)
    (fold / "checkpoint_final.pth").rename(fold / "checkpoint_latest.pth")


def validate_on(dataset) -> str:
    train, val = split_of(dataset)["train"], split_of(dataset)["val"]
    set_split(dataset, train=[train[0], val[0]], val=[train[1], val[1]])
    return train[1]


def take_the_label_away(dataset) -> str:
    """A labeled case becomes one of imagesUnlabeled."""
    first, second = split_of(dataset)["train"]
    folder = dataset.base / "nnUNetPlans_tiny_3d_fullres"
    unlabeled = folder.with_name(f"{folder.name}_unlabeled")
    for ending in (".b2nd", ".pkl"):
        (folder / f"{second}{ending}").rename(unlabeled / f"{second}{ending}")
    (folder / f"{second}_seg.b2nd").unlink()
    edit_pool(dataset, lambda cases: [*cases, second])
    set_split(dataset, train=[first])
    return second


def edit_pool(dataset, edit) -> None:
    file = dataset.base / "nnUNetPlans_tiny_3d_fullres_unlabeled" / "unlabeled.json"
    manifest = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(manifest | {"cases": edit(manifest["cases"])}), encoding="utf-8")


LEAKS = {"hidden": hide, "validated on": validate_on, "taken away": take_the_label_away}


@pytest.mark.parametrize(
    ("trainer", "change"),
    # the supervised trainer knows nothing of the unlabeled folder
    [(trainer, change) for trainer in TRAINERS for change in LEAKS if (trainer, change) != (TRAINERS[0], "taken away")],
)
def test_no_command_goes_on_with_a_label_that_was_learned_and_is_hidden_now(dataset, monkeypatch, trainer, change):
    """Not even where other data are said to be meant; and nothing has changed in the results."""
    case = LEAKS[change](dataset)
    weights = shutil.copy(fold_of(dataset, trainer) / "checkpoint_final.pth", dataset.root / "weights.pth")
    before = read_origin(fold_of(dataset, trainer))
    for options in (["--c"], ["--val"], ["--val", "--val_best"], ["-pretrained_weights", weights]):
        message = refused(monkeypatch, *options, trainer=trainer, accept_other_data=True)
        assert f"has learned 1 label(s) that fold 0 now hides or validates on ({case})" in message
        assert ("weights.pth" if "-pretrained_weights" in options else "checkpoint_final.pth") in message
    cut_off(dataset, trainer)
    message = refused(monkeypatch, "--c", trainer=trainer, num_epochs=2, accept_other_data=True)
    assert f"({case})" in message and "checkpoint_latest.pth" in message
    assert read_origin(fold_of(dataset, trainer)) == before


def new_label(dataset):
    train, val = split_of(dataset)["train"], split_of(dataset)["val"]
    set_split(dataset, train=[*train, val[0]], val=val[1:])
    return f"1 case is now trained on ({val[0]})"


def fewer_labels(dataset):
    set_split(dataset, train=split_of(dataset)["train"][:1])
    return "1 case is no longer trained on"


def less_validation(dataset):
    set_split(dataset, val=split_of(dataset)["val"][:1])
    return "1 case is no longer validated on"


def smaller_pool(dataset):
    edit_pool(dataset, lambda cases: cases[1:])
    return "1 unlabeled case is gone"


def other_plans(dataset):
    file = dataset.base / "nnUNetPlans_tiny.json"
    plans = json.loads(file.read_text(encoding="utf-8"))
    plans["configurations"]["3d_fullres"]["batch_size"] = 3
    file.write_text(json.dumps(plans), encoding="utf-8")
    return "other plans"


CHANGES = (new_label, fewer_labels, less_validation, smaller_pool, other_plans)


@pytest.mark.parametrize("change", CHANGES)
def test_other_data_on_c_must_be_said_to_be_meant(dataset, monkeypatch, change, capsys):
    phrase = change(dataset)
    cut_off(dataset)
    fold = fold_of(dataset)
    message = refused(monkeypatch, "--c", num_epochs=2)
    assert phrase in message and "accept_other_data: true in nnUNet_ssl_config" in message
    train(monkeypatch, "--c", num_epochs=2, accept_other_data=True)
    assert "ATTENTION: this training goes on with a change" in capsys.readouterr().out
    origin = read_origin(fold)
    assert len(origin.history) == 1 and phrase in origin.history[0] and "continued from epoch 1" in origin.history[0]
    assert set(origin.learned) >= set(split_of(dataset)["train"])
    assert origin_in(loaded(fold), "") == origin
    train(monkeypatch, "--c", num_epochs=2)  # it was accepted, and no longer differs
    assert read_origin(fold).history == origin.history


def test_labels_learned_by_an_earlier_part_stay_learned(dataset, monkeypatch):
    """Hidden after a change that was accepted, they are still told apart."""
    other = split_of(dataset)["val"][0]
    first, second = split_of(dataset)["train"]
    set_split(dataset, train=[first, other], val=split_of(dataset)["val"][1:])
    cut_off(dataset)
    train(monkeypatch, "--c", num_epochs=2, accept_other_data=True)
    assert read_origin(fold_of(dataset)).learned == tuple(sorted((first, second, other)))
    set_split(dataset, unlabeled=[second])
    assert f"({second})" in refused(monkeypatch, "--c", num_epochs=3, accept_other_data=True)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_every_checkpoint_and_the_fold_carry_the_origin(dataset, trainer):
    fold = fold_of(dataset, trainer)
    origin = read_origin(fold)
    assert (origin.trainer, origin.dataset, origin.plans, origin.fold) == (trainer, dataset.name, dataset.plans, 0)
    assert list(origin.train) == sorted(split_of(dataset)["train"]) == list(origin.learned)
    assert list(origin.val) == sorted(split_of(dataset)["val"]) and origin.complete and not origin.history
    assert len(origin.unlabeled) == (5 if trainer == SEMI else 0)
    assert (origin.num_epochs, origin.num_iterations_per_epoch) == (1, 2) and origin.overrides == SHORT
    for name in ("checkpoint_final.pth", "checkpoint_best.pth"):
        assert origin_in(loaded(fold, name), "") == origin


def test_another_length_goes_on_and_is_recorded(dataset, monkeypatch, capsys):
    train(monkeypatch, "--c", num_epochs=2, num_iterations_per_epoch=3, weight=0.5)
    (line,) = [line.strip() for line in capsys.readouterr().out.splitlines() if "ATTENTION" in line]
    phrases = "1 epochs then, 2 now; 2 steps per epoch then, 3 now; weight not set then, 0.5 now"
    assert line.endswith(f"this training goes on with a change: {phrases}")
    assert read_origin(fold_of(dataset)).history == (f"continued from epoch 1: {phrases}",)
    assert read_origin(fold_of(dataset)).num_epochs == 2


def forget(file: Path) -> None:
    """As a checkpoint of an earlier version."""
    content = torch.load(file, weights_only=False)
    del content["semi_supervised"]["origin"]
    torch.save(content, file)


def test_a_checkpoint_of_unknown_data_goes_on_only_where_no_label_is_hidden(dataset, monkeypatch, capsys):
    cut_off(dataset)
    latest = fold_of(dataset) / "checkpoint_latest.pth"
    forget(latest)
    kept = latest.read_bytes()
    train(monkeypatch, "--c", num_epochs=2)
    assert "nobody can tell which labels it has learned" in capsys.readouterr().out
    assert not read_origin(fold_of(dataset)).complete
    case = hide(dataset)
    (fold_of(dataset) / "checkpoint_final.pth").unlink()
    latest.write_bytes(kept)
    message = refused(monkeypatch, "--c", num_epochs=2)
    assert "fold 0 hides 1" in message and "accept_other_data" in message
    train(monkeypatch, "--c", num_epochs=2, accept_other_data=True)
    origin = read_origin(fold_of(dataset))
    assert not origin.complete and origin.hidden == (case,) and "data are unknown" in origin.history[0]


def test_a_damaged_origin_is_named(dataset, monkeypatch):
    file = fold_of(dataset) / "checkpoint_final.pth"
    content = torch.load(file, weights_only=False)
    content["semi_supervised"]["origin"]["learned"] = "all"
    torch.save(content, file)
    assert "checkpoint_final.pth: origin.learned" in refused(monkeypatch, "--c")


# ---------------------------------------------------------------------- a training that begins anew


def test_what_an_earlier_training_left_is_not_taken_for_the_new_one(dataset, monkeypatch):
    """Trained, split again, trained anew and cut off: its fold has no final checkpoint and no validation."""
    before, final = read_origin(fold_of(dataset)), (fold_of(dataset) / "checkpoint_final.pth").read_bytes()
    (fold_of(dataset) / "test").mkdir()
    hide(dataset)
    monkeypatch.setattr("nnunet_ssl.training.configured.ConfiguredTrainer.on_train_end", stop)
    with pytest.raises(KeyboardInterrupt):
        train(monkeypatch)
    fold = fold_of(dataset)
    names = {path.name for path in fold.iterdir()}
    assert not names & {"checkpoint_final.pth", "validation", "test"} and "checkpoint_best.pth" in names
    assert len(read_origin(fold).hidden) == 1
    earlier = fold / "earlier_training"
    assert (earlier / "checkpoint_final.pth").read_bytes() == final and read_origin(earlier) == before
    assert (earlier / "validation" / "summary.json").is_file() and (earlier / "test").is_dir()


def stop(self):
    raise KeyboardInterrupt


def test_a_training_that_cannot_begin_leaves_the_earlier_one(dataset, monkeypatch):
    before = {path.name for path in fold_of(dataset).iterdir()}
    origin = read_origin(fold_of(dataset))
    shutil.rmtree(dataset.base / "nnUNetPlans_tiny_3d_fullres_unlabeled")
    assert "imagesUnlabeled" in refused(monkeypatch)
    assert {path.name for path in fold_of(dataset).iterdir()} >= before
    assert read_origin(fold_of(dataset)) == origin


def test_a_run_without_checkpoints_leaves_no_record(dataset, monkeypatch):
    origin = read_origin(fold_of(dataset))
    train(monkeypatch, "--disable_checkpointing", num_iterations_per_epoch=1)
    assert read_origin(fold_of(dataset)) == origin and (fold_of(dataset) / "checkpoint_final.pth").is_file()


def test_a_split_that_changes_meanwhile_ends_in_no_table(dataset, monkeypatch):
    """Before nnU-Net's validation: the new fold's cases have been learned."""

    def split_again(self):
        validate_on(dataset)
        end(self)

    from nnunet_ssl.training.configured import ConfiguredTrainer

    end = ConfiguredTrainer.on_train_end
    monkeypatch.setattr(ConfiguredTrainer, "on_train_end", split_again)
    assert "then validate with --val" in refused(monkeypatch)
    assert not (fold_of(dataset) / "validation").exists()


def test_a_split_that_changes_before_the_unlabeled_cases_are_drawn_ends_the_training(dataset, monkeypatch):
    from nnunet_ssl.training.configured import ConfiguredTrainer

    end = ConfiguredTrainer.on_epoch_end

    def split_again(self):
        end(self)
        if self.current_epoch == 1:
            hide(dataset)

    monkeypatch.setattr(ConfiguredTrainer, "on_epoch_end", split_again)
    message = refused(monkeypatch, trainer="nnUNetTrainerBCP", num_epochs=3)
    assert message.startswith("The data of fold 0 changed while it trained: 1 case is now hidden")


def test_a_trainer_by_hand_has_its_origin_too(dataset, monkeypatch):
    monkeypatch.setenv("nnUNet_ssl_config", json.dumps(SHORT))
    trainer = get_trainer_from_args(
        dataset.name, "3d_fullres", 1, TRAINERS[0], dataset.plans, False, torch.device("cpu")
    )
    trainer.initialize()
    trainer.save_checkpoint(f"{trainer.output_folder}/checkpoint_best.pth")
    assert origin_in(loaded(fold_of(dataset, TRAINERS[0], 1), "checkpoint_best.pth"), "").fold == 1


# ---------------------------------------------------------------------- pseudo-labels


def test_pseudo_labels_of_another_training_are_not_taken(dataset, monkeypatch):
    """Those of a network that has learned a case more, put into the folder of a run that goes on."""
    name, epochs = "nnUNetTrainerSelfTraining", {"num_epochs": 3, "first_round": 0.34}
    train(monkeypatch, trainer=name, **epochs)
    fold = fold_of(dataset, name)
    phase = fold / "pseudo_labels" / "phase_1"
    assert read_origin(phase) == read_origin(fold)
    other = shutil.move(phase, dataset.root / "other")
    hide(dataset)
    with monkeypatch.context() as patched:
        patched.setattr("nnunet_ssl.training.configured.ConfiguredTrainer.on_train_end", stop)
        with pytest.raises(KeyboardInterrupt):
            train(monkeypatch, trainer=name, **epochs)
    (fold / "checkpoint_best.pth").unlink(missing_ok=True)
    assert read_origin(phase) == read_origin(fold) and len(read_origin(phase).learned) == 1
    shutil.copy(phase.parent / "phase_1" / f"{split_of(dataset)['unlabeled'][0]}.b2nd", other)
    shutil.rmtree(phase)
    shutil.move(other, phase)
    message = refused(monkeypatch, "--c", trainer=name, **epochs)
    assert message == (
        f"{phase} holds pseudo-labels of another training: the network that made them is gone; train from the start, "
        "without --c."
    )
    (phase / ORIGIN_FILE).unlink()
    assert "of another training" in refused(monkeypatch, "--c", trainer=name, **epochs)


# ---------------------------------------------------------------------- export


def export(dataset, out, *options, capsys) -> str:
    from nnunet_ssl.cli import main

    names = ["-d", "7", "-c", "3d_fullres", "-tr", SEMI, "-p", "nnUNetPlans_tiny", "-o", str(out)]
    with pytest.MonkeyPatch.context() as patched, pytest.raises(SystemExit) as end:
        patched.setattr(sys, "argv", ["nnunet_ssl", "export", *names, *options])
        main()
    assert not end.value.code
    return capsys.readouterr().out


def test_an_exported_model_tells_what_it_has_learned(dataset, monkeypatch, tmp_path, capsys):
    """Fold 0 hides a label that fold 1 validates... and fold 1 one that fold 0 has learned."""
    learned = split_of(dataset)["train"]
    first, second = split_of(dataset, 1)["train"]
    set_split(dataset, 1, train=[first], val=[second], unlabeled=learned)
    train(monkeypatch, fold="1")
    capsys.readouterr()
    printed = export(dataset, tmp_path / "one", "-f", "0", capsys=capsys)
    line = f"fold 0: {SEMI}, fold 0, 1 epochs; learned 2 labels ({', '.join(sorted(learned))}); 0 hidden, 5 unlabeled, "
    assert f"{line}2 validation cases\n" in printed and "ATTENTION" not in printed
    assert read_origin(tmp_path / "one" / "fold_0") == read_origin(fold_of(dataset))
    printed = export(dataset, tmp_path / "two", capsys=capsys)
    assert f"has learned 2 label(s) that one of them hides ({', '.join(sorted(learned))})" in printed
    assert printed.count("fold 1: ") == 1 and read_origin(tmp_path / "two" / "fold_1").hidden == tuple(sorted(learned))
    forget(fold_of(dataset) / "checkpoint_final.pth")
    assert "fold 0: of unknown data" in export(dataset, tmp_path / "unknown", "-f", "0", capsys=capsys)
