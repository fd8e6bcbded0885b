"""nnU-Net's own command ends with the message alone where this package refuses a training, and nowhere else."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetNumpy
from workbench import another_process_holds

from nnunet_ssl.errors import InputError, refusal

COMMAND = Path(sys.executable).parent / "nnUNetv2_train"
UNKNOWN = "nnUNet_ssl_config: unknown key 'num_epoch'. Did you mean num_epochs?"
SHORT = {"num_epochs": 1, "num_iterations_per_epoch": 1, "num_val_iterations_per_epoch": 1}


@pytest.fixture
def dataset(phantom_3d, tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setenv("nnUNet_compile", "false")
    return phantom_3d.copy(tmp_path).use(monkeypatch)


def train(dataset, trainer="nnUNetTrainerMeanTeacher", overrides=(), program=(COMMAND,), **variables):
    """Exit status and stderr of `nnUNetv2_train` on fold 0."""
    variables |= {"nnUNet_ssl_config": json.dumps(SHORT | dict(overrides)), "PYTHONWARNINGS": "ignore"}  # of torch
    arguments = ["7", "3d_fullres", "0", "-tr", trainer, "-p", dataset.plans, "-device", "cpu"]
    done = subprocess.run([*program, *arguments], capture_output=True, encoding="utf-8", env=os.environ | variables)
    return done.returncode, done.stderr


def output_folder(dataset, trainer="nnUNetTrainerMeanTeacher"):
    return dataset.root / "results" / dataset.name / f"{trainer}__{dataset.plans}__3d_fullres" / "fold_0"


def assert_is_one_line(ended, start):
    status, told = ended
    assert status == 1 and told.startswith(f"nnunet_ssl: {start}") and told.count("\n") == 1, told


@pytest.mark.slow
def test_an_unknown_override(dataset):
    assert_is_one_line(train(dataset, overrides={"num_epoch": 3}), UNKNOWN)


@pytest.mark.slow
def test_no_unlabeled_case(dataset):
    folder = dataset.base / "nnUNetPlans_tiny_3d_fullres_unlabeled"
    folder.rename(dataset.root / "away")
    assert_is_one_line(train(dataset), f"No preprocessed unlabeled cases: {folder} does not exist.")


@pytest.mark.slow
def test_what_a_method_cannot_do(dataset):
    ended = train(dataset, "nnUNetTrainerICT", {"unlabeled_batch_size": 1})
    assert_is_one_line(ended, "ICT mixes pairs of unlabeled patches: set unlabeled_batch_size to 2 or more.")


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_case_that_is_damaged(dataset, workers):
    for file in dataset.base.glob("*_unlabeled/*.b2nd"):
        file.write_bytes(b"no image")
    status, told = train(dataset, nnUNet_n_proc_DA=workers)
    last = told.splitlines()[-1]
    assert status == 1 and "Traceback" not in told
    assert re.match(r"nnunet_ssl: unlabeled case \w+: .*b2nd cannot be read .*delete it and run `nnunet_ssl pre", last)


@pytest.mark.slow
def test_a_second_training_of_a_fold(dataset):
    folder = output_folder(dataset)
    with another_process_holds(folder) as other:
        assert_is_one_line(train(dataset), f"{folder} is in use: process {other} on ")
        assert not list(folder.glob("checkpoint*"))
    assert train(dataset)[0] == 0
    assert (folder / "validation" / "summary.json").is_file()
    assert [file.name for file in folder.parent.iterdir() if file.name.startswith(".")] == []


USERS = """
from nnunet_ssl.training.trainer import SemiSupervisedTrainer
from nnunet_ssl.methods.mean_teacher import MeanTeacher


class Mine(MeanTeacher):
    def setup(self, net, new_net):
        raise {error}("mine")


class nnUNetTrainerMine(SemiSupervisedTrainer):
    method = Mine
"""


@pytest.mark.slow
@pytest.mark.parametrize("error", ["KeyError", "NotImplementedError"])
def test_any_other_exception_keeps_its_traceback(dataset, tmp_path, error):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "nnUNetTrainerMine.py").write_text(USERS.format(error=error), encoding="utf-8")
    folders = os.pathsep.join([str(tmp_path / "mine"), os.environ.get("nnUNet_extTrainer", "")])
    status, told = train(dataset, "nnUNetTrainerMine", nnUNet_extTrainer=folders)
    assert status == 1 and told.startswith("Traceback") and "in setup" in told and told.count("\n") > 10


@pytest.mark.slow
def test_a_program_that_uses_a_trainer_gets_the_exception_and_its_traceback(dataset):
    code = "from nnunetv2.run.run_training import run_training_entry as run\n"
    status, told = train(dataset, overrides={"typo": 1}, program=(sys.executable, "-c", f"{code}run()"))
    assert status == 1 and told.startswith("Traceback") and "nnunet_ssl.errors.InputError: " in told.splitlines()[-1]
    caught = f"{code}try:\n    run()\nexcept ValueError as error:\n    raise SystemExit(f'caught {{type(error)}}')"
    assert train(dataset, overrides={"typo": 1}, program=(sys.executable, "-c", caught)) == (
        1, "caught <class 'nnunet_ssl.errors.InputError'>\n",
    )  # fmt: skip


# What stands in for the two GPUs that -num_gpus 2 needs; nnU-Net's command, torch's spawn and the ranks are real.
ON_CPU = """
import sys
import nnunetv2.run.run_training as module
import torch
import torch.distributed as dist

def setup_ddp(rank, world_size):
    dist.init_process_group("gloo", rank=rank, world_size=world_size)

def run_training(*arguments, **other):
    from inspect import signature
    given = signature(real).bind(*arguments, **other)
    given.arguments |= {"num_gpus": 2, "device": torch.device("cuda")}
    real(*given.args, **given.kwargs)

real = module.run_training
module.run_training, module.setup_ddp, torch.cuda.set_device = run_training, setup_ddp, lambda device: None
if __name__ == "__main__":
    module.run_training_entry()
"""


@pytest.mark.slow
def test_ranks(dataset, tmp_path):
    program = tmp_path / "nnUNetv2_train"
    program.write_text(ON_CPU, encoding="utf-8")
    status, told = train(dataset, overrides={"num_epoch": 3}, program=(sys.executable, program))
    last = told.splitlines()[-1]
    assert status == 1 and last.startswith(f"nnunet_ssl: {UNKNOWN}")
    assert "Traceback" not in told


# ---------------------------------------------------------------------- without processes


def raised(function):
    try:
        function()
    except Exception as error:
        return error


def test_which_exceptions_are_refusals():
    from nnunet_ssl.method import Method

    def refuse(message):
        raise InputError(message)

    def chained():
        try:
            raise OSError("no space")
        except OSError as error:
            raise InputError("the file\ncannot be written") from error

    def not_ours():
        raise NotImplementedError("of somebody else")

    assert refusal(raised(lambda: refuse("a case"))) == "a case"
    assert refusal(raised(chained)) == "the file\ncannot be written"
    assert "must say what its losses are" in refusal(raised(lambda: Method().losses(None, None, None, None)))
    assert refusal(raised(not_ours)) == refusal(raised(lambda: int("a"))) == ""


class ProcessRaisedException(Exception):
    """As torch's, which tells of a rank by its traceback alone."""


def test_a_rank_that_refuses_and_one_that_fails():
    head = "\n\n-- Process 1 terminated with the following error:\nTraceback (most recent call last):\n"
    where = '  File "/somewhere/run_training.py", line 90, in run_ddp\n    train()\n    ~~~~~^^\n'
    told = refusal(ProcessRaisedException(f"{head}{where}nnunet_ssl.errors.InputError: a case\nand a file\n"))
    assert told == "a case\nand a file"
    for other in ("KeyError: 'a'", "NotImplementedError: of nnU-Net", "nnunet_ssl.errors.InputError"):
        assert refusal(ProcessRaisedException(f"{head}{where}{other}\n")) == ""


def test_files_of_nnunets_older_format_are_refused_at_set_up(dataset, monkeypatch):
    module = "nnunetv2.training.nnUNetTrainer.nnUNetTrainer"
    monkeypatch.setattr(f"{module}.infer_dataset_class", lambda folder: nnUNetDatasetNumpy)
    arguments = (dataset.name, "3d_fullres", 0, "nnUNetTrainerMeanTeacher", dataset.plans, False, torch.device("cpu"))
    with pytest.raises(NotImplementedError, match="older npz files; run nnUNetv2_preprocess again"):
        get_trainer_from_args(*arguments).initialize()
