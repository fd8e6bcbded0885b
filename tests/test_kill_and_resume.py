"""Trainings and preprocessing killed or stopped at any moment, continued, and compared with the uninterrupted ones."""

import faulthandler
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import blosc2
import numpy as np
import pytest
import torch
from workbench import FORKSERVER, assert_same

EPOCHS, STEPS, VALIDATION_STEPS = 4, 6, 2
SETTINGS = {
    "num_epochs": EPOCHS,
    "num_iterations_per_epoch": STEPS,
    "num_val_iterations_per_epoch": VALIDATION_STEPS,
    "save_every": 1,
    "seed": 0,
}
WRITES = ("within the write", "before the rename", "after the rename")
PATIENCE = 300  # seconds
PACE = 0.02  # seconds that a step lasts at least, so that moments fall into all parts of a training


def wound(moment: str, number: int) -> None:
    """Has this process kill itself in its `number`-th checkpoint write, or after as many files of a preprocessing."""
    count = 0
    save, replace = torch.save, os.replace

    def last(kinds: str) -> bool:
        nonlocal count
        count += 1
        return moment in kinds and count == number

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    def cut_off(content, stream):
        if moment == WRITES[0] and last(WRITES[0]):
            buffer = io.BytesIO()
            save(content, buffer)
            stream.write(buffer.getvalue()[: buffer.tell() // 2])
            stream.flush()
            die()
        save(content, stream)

    def renamed(source, target):
        if moment != WRITES[0] and last(moment):
            if moment == WRITES[2]:
                replace(source, target)
            die()
        replace(source, target)

    torch.save, os.replace = cut_off, renamed


def train(folder: str, name: str, moment: str = "", number: int = 0, validate: bool = False) -> None:
    """What `nnUNetv2_train 7 3d_fullres 0 -tr NAME --c` does, in a process of its own."""
    os.environ |= {f"nnUNet_{kind}": f"{folder}/{kind}" for kind in ("raw", "preprocessed", "results")}
    os.environ |= {"nnUNet_ssl_config": json.dumps(SETTINGS), "nnUNet_n_proc_DA": "0", "nnUNet_compile": "false"}
    from nnunetv2.run import run_training
    from nnunetv2.training.logging.nnunet_logger import MetaLogger

    MetaLogger.plot_progress_png = lambda *args: None
    trainer_of = run_training.get_trainer_from_args

    def watched(*args, **kwargs):
        trainer = trainer_of(*args, **kwargs)
        kind = type(trainer)
        start, step = kind.on_train_start, kind.train_step

        def started(self):
            start(self)
            wound(moment, number)
            Path(folder, "started").touch()

        def counted(self, batch):
            time.sleep(PACE)
            outputs = step(self, batch)
            with open(Path(folder, "steps"), "ab") as file:
                file.write(b".")
            return outputs

        kind.on_train_start, kind.train_step = started, counted
        if not validate:
            kind.perform_actual_validation = lambda *args: None
        return trainer

    run_training.get_trainer_from_args = watched
    names = ["7", "3d_fullres", "0", "-tr", name, "-p", "nnUNetPlans_tiny"]
    sys.argv = ["nnUNetv2_train", *names, "-device", "cpu", "--c"]
    run_training.run_training_entry()


class Forked:
    """A training, or another function, as the copy of a process that has imported: it starts at once."""

    def __init__(self, *arguments, target=train):
        self.process = FORKSERVER.Process(target=traced, args=(target, *arguments))
        self.process.start()
        self.pid = self.process.pid

    def running(self) -> bool:
        return self.process.is_alive()

    def end(self) -> int:
        """Its exit status. One that hangs is ended, for Python waits for its children; it says where it was."""
        self.process.join(PATIENCE)
        if self.running():
            os.kill(self.pid, signal.SIGABRT)
            self.process.join()
        return self.process.exitcode


def traced(target, *arguments) -> None:
    faulthandler.enable()
    target(*arguments)


class Command:
    """A training as a fresh interpreter, to the end of nnU-Net's validation."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen([sys.executable, __file__, json.dumps([*arguments])])
        self.pid = self.process.pid

    def running(self) -> bool:
        return self.process.poll() is None

    def end(self) -> int:
        return self.process.wait(2 * PATIENCE)


def run(kind, dataset, name: str, *how, signal_after: tuple[int, float] | None = None) -> int:
    """Starts or continues a training and waits for its end; returns its exit status, as `subprocess` tells it."""
    mark = dataset.root / "started"
    mark.unlink(missing_ok=True)
    training = kind(str(dataset.root), name, *how)
    if signal_after is not None:
        number, seconds = signal_after
        while training.running() and not mark.exists():
            time.sleep(0.005)
        time.sleep(seconds)
        os.kill(training.pid, number)
    return training.end()


def fold_of(dataset, name: str) -> Path:
    return dataset.root / "results" / dataset.name / f"{name}__nnUNetPlans_tiny__3d_fullres" / "fold_0"


def read(file: Path) -> dict:
    return torch.load(file, map_location="cpu", weights_only=False)


def assert_same_run(fold: Path, whole: Path) -> None:
    """The same checkpoints, so the same weights, method, optimizer, log and random state; and nothing left over."""
    for name in ("checkpoint_final.pth", "checkpoint_best.pth"):
        assert_same(read(fold / name), read(whole / name), name)
    assert sorted(file.name for file in fold.glob("checkpoint*")) == ["checkpoint_best.pth", "checkpoint_final.pth"]


def logs(fold: Path) -> list[str]:
    return [file.read_text(encoding="utf-8") for file in sorted(fold.glob("training_log_*.txt"))]


def epochs_done(fold: Path) -> int:
    """How many epochs have ended according to the logs."""
    lines = re.findall(r"Epoch (\d+) *$|(Epoch time)", "\n".join(logs(fold)), re.MULTILINE)
    pairs = zip(lines, lines[1:], strict=False)
    return max((int(epoch) + 1 for (epoch, _), (_, end) in pairs if epoch and end), default=0)


def check_after_kill(fold: Path) -> None:
    """Every checkpoint under its own name is whole, and the latest lacks one epoch at most."""
    files = list(fold.glob("checkpoint_*.pth"))
    epochs = [read(file)["current_epoch"] for file in files]
    assert max(epochs, default=0) >= epochs_done(fold) - 1, "work before the last checkpoint is lost"


def test_a_child_that_hangs_is_ended(monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "PATIENCE", 1)
    assert Forked(60, target=time.sleep).end() == -signal.SIGABRT


@pytest.fixture
def dataset(phantom_3d, tmp_path):
    return phantom_3d.copy(tmp_path)


def kill_and_continue(kind, dataset, tmp_path, name, kills: int, writes: int, stops: int) -> dict[str, int]:
    """Kills a training at random moments and in checkpoint writes, stops it by signals, and compares; counts these."""
    rng = random.Random(0)
    fold = fold_of(dataset, name)
    began = time.monotonic()
    assert run(kind, dataset, name) == 0
    whole = shutil.move(fold, tmp_path / "whole")
    total = EPOCHS * STEPS
    assert (dataset.root / "steps").stat().st_size == total
    span = min(time.monotonic() - began, 6 * PACE * total)

    wounds = ["kill"] * kills + [WRITES[number % len(WRITES)] for number in range(writes)] + ["stop"] * stops
    rng.shuffle(wounds)
    survived: dict[str, int] = {}
    kinds_of_stop = [signal.SIGTERM, signal.SIGINT]
    while wounds:
        moment = wounds.pop()
        if (fold / "checkpoint_final.pth").exists():  # the training is over: the next moments are those of a new one
            if (fold / "checkpoint_latest.pth").exists():  # killed before nnU-Net removed it
                assert run(kind, dataset, name) == 0
            assert_same_run(fold, whole)
            shutil.rmtree(fold)
        steps_before = (dataset.root / "steps").stat().st_size
        if moment in WRITES:
            status = run(kind, dataset, name, moment, rng.randint(1, 2))
            number, expected = signal.SIGKILL, -signal.SIGKILL
        else:
            number = signal.SIGKILL if moment == "kill" else kinds_of_stop[len(survived) % 2]
            status = run(kind, dataset, name, signal_after=(number, rng.uniform(0, span / 3)))
            expected = -signal.SIGKILL if moment == "kill" else 128 + number
        if status == 0:
            wounds.insert(0, moment)  # it had ended before
            continue
        # after the training, in nnU-Net's validation of whole cases, signals act as ever
        assert status == expected or (status == -number and (fold / "checkpoint_final.pth").exists())
        check_after_kill(fold)
        if moment == "stop" and not (fold / "checkpoint_final.pth").exists():
            latest = read(fold / "checkpoint_latest.pth")
            taken = latest["semi_supervised"]["taken"][0]["train"]
            assert f"Stopped by {signal.Signals(number).name}" in logs(fold)[-1]
            taken_now = (dataset.root / "steps").stat().st_size - steps_before
            assert latest["current_epoch"] * STEPS + len(taken) >= taken_now
        survived[moment] = survived.get(moment, 0) + 1
    assert run(kind, dataset, name) == 0
    assert_same_run(fold, whole)
    return survived


def test_a_killed_training_ends_as_the_uninterrupted_one(dataset, tmp_path):
    survived = kill_and_continue(Forked, dataset, tmp_path, "nnUNetTrainerMeanTeacher", kills=1, writes=3, stops=1)
    assert sum(survived.values()) == 5 and set(survived) == {"kill", "stop", *WRITES}


@pytest.mark.long
def test_a_training_survives_many_kills_of_its_command(dataset, tmp_path):
    survived = kill_and_continue(Command, dataset, tmp_path, "nnUNetTrainerFixMatchCTA", kills=8, writes=6, stops=6)
    print(survived)
    assert sum(survived.values()) == 20


@pytest.mark.long
@pytest.mark.parametrize("name", ["nnUNetTrainerMeanTeacher", "nnUNetTrainerDHC", "nnUNetTrainerSupervised"])
def test_a_training_survives_many_kills(dataset, tmp_path, name):
    survived = kill_and_continue(Forked, dataset, tmp_path, name, kills=20, writes=12, stops=12)
    print(survived)
    assert sum(survived.values()) == 44


def test_no_step_is_lost_or_taken_twice_by_stops(dataset):
    """Stops within epochs: all steps together are those of one run, and each goes on where the last one stopped."""
    name = "nnUNetTrainerMeanTeacher"
    for seconds, number in ((0.05, signal.SIGTERM), (0.3, signal.SIGINT), (0.15, signal.SIGTERM)):
        assert run(Forked, dataset, name, signal_after=(number, seconds)) == 128 + number
    assert run(Forked, dataset, name) == 0
    assert (dataset.root / "steps").stat().st_size == EPOCHS * STEPS


# ---------------------------------------------------------------------- preprocessing


def preprocess(folder: str, moment: str = "", number: int = 0) -> None:
    """`nnunet_ssl preprocess -d 7 -c 3d_fullres`, its pool of processes apart."""
    os.environ |= {f"nnUNet_{kind}": f"{folder}/{kind}" for kind in ("raw", "preprocessed", "results")}
    from workbench import InProcess

    from nnunet_ssl import pools
    from nnunet_ssl.preparation import preprocessing

    pools.ProcessPoolExecutor = InProcess
    if moment:
        wound(moment, number)
    Path(folder, "started").touch()
    preprocessing.preprocess_dataset(7, ["3d_fullres"], "nnUNetPlans_tiny", 1)


def contents(folder: Path) -> dict[str, bytes]:
    """Voxels of the images, for blosc2's threads write the blocks in an order that varies; bytes of all other files."""

    def content(file: Path) -> bytes:
        return blosc2.open(str(file), mode="r")[:].tobytes() if file.suffix == ".b2nd" else file.read_bytes()

    return {str(file.relative_to(folder)): content(file) for file in folder.rglob("*") if file.is_file()}


def run_preprocessing(dataset, *how) -> int:
    return Forked(str(dataset.root), *how, target=preprocess).end()


def kill_preprocessing(dataset, counts: list[int]) -> int:
    folder = dataset.base / "nnUNetPlans_tiny_3d_fullres_unlabeled"
    shutil.rmtree(folder)
    assert run_preprocessing(dataset) == 0
    whole = contents(folder)
    assert len(whole) == 11  # five cases with their properties, and the manifest
    survived = 0
    for count in counts:
        shutil.rmtree(folder)
        for moment in WRITES[1:]:
            assert run_preprocessing(dataset, moment, count) == -signal.SIGKILL
            assert not (folder / "unlabeled.json").exists()
            survived += 1
        assert run_preprocessing(dataset) == 0
        assert contents(folder) == whole
    return survived


def test_a_preprocessing_waits_for_no_thread_of_this_process(dataset):
    array = blosc2.asarray(np.random.default_rng(0).random((64, 64, 64)), blocks=(8, 8, 8), cparams={"nthreads": 4})
    shutil.rmtree(dataset.base / "nnUNetPlans_tiny_3d_fullres_unlabeled")
    assert run_preprocessing(dataset) == 0
    assert array.shape == (64, 64, 64)  # alive until here, and with it the threads that blosc2 shares among arrays


def test_a_killed_preprocessing_goes_on_to_the_same_images(dataset):
    assert kill_preprocessing(dataset, [1]) == 2


@pytest.mark.long
def test_a_preprocessing_killed_at_every_rename_goes_on_to_the_same_images(dataset):
    assert kill_preprocessing(dataset, [1, 2, 3, 4, 5]) == 10


if __name__ == "__main__":
    train(*json.loads(sys.argv[1]), *([] if len(json.loads(sys.argv[1])) > 2 else ["", 0]), True)
