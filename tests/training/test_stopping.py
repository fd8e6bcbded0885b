"""Signals that stop a training between steps, and what happens to its files when the disk or the data fail it."""

import errno
import os
import random
import shutil
import signal
import time
from multiprocessing import active_children, get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint
from real_device import DEVICE, ON_GPU
from short_trainings import equal
from torch import multiprocessing as mp
from workbench import assert_same, file_size_limit, make_diverged, one_rank

from nnunet_ssl.checkpoints import has_diverged, read_checkpoint, write_checkpoint
from nnunet_ssl.errors import InputError
from nnunet_ssl.training.stopping import AGREE_EVERY, Steps, Stop

CPU = torch.device("cpu")
SHORT = "{num_epochs: 2, num_iterations_per_epoch: 4, num_val_iterations_per_epoch: 2, save_every: 1, seed: 0}"


def send(number: int) -> None:
    os.kill(os.getpid(), number)


# ---------------------------------------------------------------------- signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted_and_handlers_come_back(number):
    before = signal.getsignal(number)
    with Stop() as stop:
        assert stop.agreed(CPU) == 0
        send(number)
        assert stop.agreed(CPU) == number
    assert signal.getsignal(number) == before


def test_only_a_second_interrupt_acts_at_once():
    with Stop() as stop:
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        send(signal.SIGINT)
        assert stop.number == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_an_ignored_interrupt_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Stop() as stop:
            send(signal.SIGINT)
        assert stop.number == 0
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_forked_worker_ignores_ctrl_c_and_dies_of_sigterm():
    with Stop() as stop:
        worker = get_context("fork").Process(target=time.sleep, args=(60,), daemon=True)
        worker.start()
        os.kill(worker.pid, signal.SIGINT)
        worker.join(0.3)
        assert worker.is_alive()
        worker.terminate()
        worker.join(30)
    assert worker.exitcode == -signal.SIGTERM
    assert stop.number == 0


def test_steps_hand_out_earlier_outputs_first():
    calls = []
    steps = Steps(iter([{"batch": 3}]), lambda batch: {"loss": batch["batch"]}, lambda: calls.append(1), [{"loss": 1}])
    assert [steps.step(next(steps)) for _ in range(2)] == [{"loss": 1}, {"loss": 3}] == steps.outputs
    assert calls == [1] and steps.done_before == []


def test_dead_workers_are_no_fault_after_a_stop():
    class Gone:
        def __next__(self):
            send(signal.SIGTERM)
            raise RuntimeError("One or more background workers are no longer alive")

    def end_if_asked():
        if stop.agreed(CPU):
            raise SystemExit(143)

    with Stop() as stop, pytest.raises(SystemExit):
        next(Steps(Gone(), None, end_if_asked, []))
    with pytest.raises(RuntimeError, match="no longer alive"), Stop():
        next(Steps(Gone(), None, lambda: None, []))


# ---------------------------------------------------------------------- checkpoint files


CONTENT = {"trainer_name": "x", "weights": torch.arange(3000.0), "log": [1.5, 2.5]}


def test_a_damaged_checkpoint_is_never_taken_for_good(tmp_path):
    file = tmp_path / "checkpoint_latest.pth"
    write_checkpoint(CONTENT, str(file))
    whole, rng = file.read_bytes(), random.Random(0)
    refused = 0
    for number in range(300):
        if number % 2:
            damaged = whole[: rng.randrange(len(whole))]
        else:
            position = rng.randrange(len(whole))
            damaged = whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :]
        file.write_bytes(damaged)
        try:
            content = read_checkpoint(str(file))
        except InputError as error:
            assert "checkpoint_latest.pth is no whole checkpoint" in str(error) and "remove it" in str(error)
            refused += 1
        else:  # a byte that nothing depends on
            assert torch.equal(content["weights"], CONTENT["weights"]) and content["log"] == CONTENT["log"]
    assert refused > 280


class Code:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_a_checkpoint_is_read_as_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    numbers = {"trainer_name": "T", "losses": [np.float32(0.1), np.float64(0.2), np.int64(3)]}
    write_checkpoint(numbers | {"counts": np.arange(3)}, "numbers.pth")
    content = read_checkpoint("numbers.pth")
    assert content.pop("counts").tolist() == [0, 1, 2] and content == numbers
    write_checkpoint({"trainer_name": "T", "network_weights": Code()}, "code.pth")
    with pytest.raises(InputError, match="code.pth is no whole checkpoint"):
        read_checkpoint("code.pth")
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(InputError, match="names no trainer"):
        read_checkpoint(str(tmp_path / "list.pth"))


def test_a_file_that_the_system_cuts_off_leaves_the_last_one_whole(tmp_path):
    file = tmp_path / "checkpoint_latest.pth"
    write_checkpoint(CONTENT, str(file))
    before = file.read_bytes()
    message = "checkpoint_latest.pth cannot be written: File too large.*--c"
    with file_size_limit(len(before) // 2), pytest.raises(InputError, match=message):
        write_checkpoint(CONTENT, str(file))
    assert file.read_bytes() == before and os.listdir(tmp_path) == [file.name]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_failed_flush_leaves_the_last_one_whole(tmp_path, monkeypatch, number):
    file = tmp_path / "checkpoint_latest.pth"
    write_checkpoint(CONTENT, str(file))

    def fail(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(InputError, match=os.strerror(number)):
        write_checkpoint(CONTENT | {"log": []}, str(file))
    assert read_checkpoint(str(file))["log"] == CONTENT["log"] and os.listdir(tmp_path) == [file.name]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    """A folder in the file's place, as permissions do not bind every user."""
    (tmp_path / "checkpoint_best.pth.partial").mkdir()
    with pytest.raises(InputError, match="checkpoint_best.pth cannot be written: Is a directory"):
        write_checkpoint(CONTENT, str(tmp_path / "checkpoint_best.pth"))


# ---------------------------------------------------------------------- trainings


@pytest.fixture
def dataset(phantom_3d, tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setenv("nnUNet_ssl_config", SHORT)
    monkeypatch.setattr("nnunetv2.training.logging.nnunet_logger.MetaLogger.plot_progress_png", lambda *args: None)
    return phantom_3d.copy(tmp_path).use(monkeypatch)


def trainer_of(dataset, name, resume=False, device=CPU):
    trainer = get_trainer_from_args(dataset.name, "3d_fullres", 0, name, dataset.plans, resume, device)
    maybe_load_checkpoint(trainer, resume, False)
    return trainer


def stop_after(trainer, kind, calls, number):
    """Signals this process at the end of the `calls`-th call of a step."""
    step, count = getattr(trainer, kind), 0

    def stopped(batch):
        nonlocal count
        outputs = step(batch)
        count += 1
        if count == calls:
            send(number)
        return outputs

    setattr(trainer, kind, stopped)


def loaded(trainer, name="checkpoint_final.pth"):
    return torch.load(f"{trainer.output_folder}/{name}", weights_only=False)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["nnUNetTrainerFixMatchCTA", "nnUNetTrainerSupervised"])
def test_stops_within_epochs_leave_no_trace(dataset, tmp_path, monkeypatch, name, capsys):
    """On a GPU nearly none: its kernels add up in an order of their own each time."""
    monkeypatch.setenv("nnUNet_compile", "false")
    monkeypatch.setattr("torch.backends.cudnn.deterministic", True)
    whole = trainer_of(dataset, name, device=DEVICE)
    whole.run_training()
    expected, best = loaded(whole), loaded(whole, "checkpoint_best.pth")
    shutil.move(whole.output_folder, tmp_path / "whole")

    stops = [  # where, after how many calls, by which signal; epoch and steps in the checkpoint
        ("train_step", 1, signal.SIGTERM, 0, 1, 0),
        ("train_step", 2, signal.SIGINT, 0, 3, 0),
        ("train_step", 1, signal.SIGTERM, 0, 4, 0),
        ("validation_step", 1, signal.SIGINT, 0, 4, 1),
        ("validation_step", 1, signal.SIGTERM, 1, 0, 0),
        ("train_step", 3, signal.SIGINT, 1, 3, 0),
    ]
    for kind, calls, number, epoch, steps, validated in stops:
        trainer = trainer_of(dataset, name, resume=True, device=DEVICE)
        stop_after(trainer, kind, calls, number)
        with pytest.raises(SystemExit) as caught:
            trainer.run_training()
        assert caught.value.code == 128 + number
        assert f"in epoch {epoch} after {steps} of 4 steps; --c goes on from there" in capsys.readouterr().out
        saved = loaded(trainer, "checkpoint_latest.pth")
        taken = saved["semi_supervised"]["taken"][0]
        assert saved["current_epoch"] == epoch and len(saved["logging"]["train_losses"]) == epoch
        assert (len(taken["train"]), len(taken["validation"])) == (steps, validated)
    trainer = trainer_of(dataset, name, resume=True, device=DEVICE)
    trainer.run_training()
    if ON_GPU:
        assert equal(loaded(trainer)["network_weights"], expected["network_weights"], nearly=True)
        return
    assert_same(loaded(trainer), expected)
    assert_same(loaded(trainer, "checkpoint_best.pth"), best)


def test_a_stop_at_the_very_end_waits_for_the_final_checkpoint(dataset, capsys):
    trainer = trainer_of(dataset, "nnUNetTrainerSupervised")
    stop_after(trainer, "validation_step", 4, signal.SIGTERM)
    with pytest.raises(SystemExit) as caught:
        trainer.run_training()
    assert caught.value.code == 143 and "--c goes on with the validation" in capsys.readouterr().out
    assert loaded(trainer)["current_epoch"] == 2


def test_with_worker_processes_that_are_stopped_too(dataset, monkeypatch):
    """SIGTERM for the whole group, as a scheduler sends it: the loaders die, and no step is lost."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    trainer = trainer_of(dataset, "nnUNetTrainerMeanTeacher")
    step = trainer.train_step

    def stopped(batch):
        outputs = step(batch)
        assert len(loaders := active_children()) == 2  # of training and validation
        for worker in loaders:
            os.kill(worker.pid, signal.SIGTERM)
            worker.join(30)
        send(signal.SIGTERM)
        return outputs

    trainer.train_step = stopped
    with pytest.raises(SystemExit):
        trainer.run_training()
    assert len(loaded(trainer, "checkpoint_latest.pth")["semi_supervised"]["taken"][0]["train"]) == 1


def test_other_lengths_continue_with_what_fits(dataset, monkeypatch):
    trainer = trainer_of(dataset, "nnUNetTrainerSupervised")
    stop_after(trainer, "validation_step", 1, signal.SIGTERM)
    with pytest.raises(SystemExit):
        trainer.run_training()
    for steps, train, validation in ((3, 3, 0), (4, 4, 1), (6, 4, 0)):
        monkeypatch.setenv("nnUNet_ssl_config", SHORT.replace("epoch: 4", f"epoch: {steps}"))
        resumed = trainer_of(dataset, "nnUNetTrainerSupervised", resume=True)
        assert {kind: len(outputs) for kind, outputs in resumed.done_before.items()} == {
            "train": train, "validation": validation,
        }  # fmt: skip


def test_a_killed_run_missed_the_best_checkpoint(dataset, monkeypatch):
    """nnU-Net writes the latest checkpoint first; a run killed right after it makes up for the best one."""
    trainer = trainer_of(dataset, "nnUNetTrainerSupervised")
    save = trainer.save_checkpoint

    class Killed(Exception):
        pass

    def killed(filename):
        save(filename)
        raise Killed

    trainer.save_checkpoint = killed
    with pytest.raises(Killed):
        trainer.run_training()
    folder = Path(trainer.output_folder)
    assert [file.name for file in folder.glob("*.pth")] == ["checkpoint_latest.pth"]
    (folder / "checkpoint_final.pth.partial").touch()
    trainer = trainer_of(dataset, "nnUNetTrainerSupervised", resume=True)
    assert trainer._best_ema is None
    trainer.on_train_start()
    assert loaded(trainer, "checkpoint_best.pth")["_best_ema"] == trainer._best_ema is not None
    assert not list(folder.glob("*.partial"))


def test_an_unlabeled_folder_that_vanishes_leaves_the_checkpoint(dataset, tmp_path):
    trainer = trainer_of(dataset, "nnUNetTrainerMeanTeacher")
    folder = dataset.base / "nnUNetPlans_tiny_3d_fullres_unlabeled"
    step, count = trainer.train_step, 0

    def vanish(batch):
        nonlocal count
        count += 1
        if count == 6:
            folder.rename(tmp_path / "away")
        return step(batch)

    trainer.train_step = vanish
    with pytest.raises(InputError, match="unlabeled case .* is gone; bring it back or run"):
        trainer.run_training()
    with pytest.raises(InputError, match="nnunet_ssl preprocess -d 7"):
        trainer_of(dataset, "nnUNetTrainerMeanTeacher", resume=True).run_training()
    assert loaded(trainer, "checkpoint_latest.pth")["current_epoch"] == 1
    (tmp_path / "away").rename(folder)
    trainer = trainer_of(dataset, "nnUNetTrainerMeanTeacher", resume=True)
    trainer.run_training()
    assert loaded(trainer)["current_epoch"] == 2


def test_a_truncated_checkpoint_is_named(dataset):
    trainer = trainer_of(dataset, "nnUNetTrainerSupervised")
    trainer.initialize()
    file = Path(trainer.output_folder, "checkpoint_latest.pth")
    trainer.save_checkpoint(str(file))
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InputError, match="checkpoint_latest.pth is no whole checkpoint") as caught:
        trainer_of(dataset, "nnUNetTrainerSupervised", resume=True)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------- several ranks


def stop_one_rank(rank, world, folder):
    with one_rank(rank, world, folder):
        with Stop() as stop:
            for step in range(3 * AGREE_EVERY):
                if rank == 1 and step == AGREE_EVERY + 2:
                    send(signal.SIGTERM)
                if number := stop.agreed(CPU):
                    break
        Path(folder, f"rank_{rank}").write_text(f"{step} {number}", encoding="utf-8")


def test_ranks_agree_on_the_step(tmp_path):
    mp.start_processes(stop_one_rank, (2, str(tmp_path)), nprocs=2, start_method="forkserver")
    said = [(tmp_path / f"rank_{rank}").read_text(encoding="utf-8") for rank in range(2)]
    assert said == [f"{2 * AGREE_EVERY - 1} {int(signal.SIGTERM)}"] * 2


@pytest.mark.parametrize("name", ["nnUNetTrainerSupervised", "nnUNetTrainerMeanTeacher"])
def test_a_training_that_diverges_ends_and_leaves_the_last_sound_checkpoint(dataset, name):
    trainer = trainer_of(dataset, name)
    step, steps = trainer.train_step, 0

    def diverging(batch):
        nonlocal steps
        steps += 1
        if steps == 6:  # of 4 an epoch
            with torch.no_grad():
                next(trainer.network.parameters()).fill_(float("inf"))
        return step(batch)

    trainer.train_step = diverging
    with pytest.raises(InputError, match="epoch 1: the weights are no numbers .*final.pth was not written"):
        trainer.run_training()
    saved = loaded(trainer, "checkpoint_latest.pth")
    assert saved["current_epoch"] == 1 and not has_diverged(saved["network_weights"])
    assert not Path(trainer.output_folder, "checkpoint_final.pth").exists()
    make_diverged(Path(trainer.output_folder, "checkpoint_latest.pth"))  # as an earlier version would have written it
    with pytest.raises(InputError, match="checkpoint_latest.pth has weights that are no numbers: .* train it anew"):
        trainer_of(dataset, name, resume=True)
