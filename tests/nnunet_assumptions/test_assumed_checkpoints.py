"""What nnU-Net saves and logs, the command `nnUNetv2_train`, and what it loads."""

import inspect
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.run import run_training
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.training.logging.nnunet_logger import LocalLogger, MetaLogger, WandbLogger
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from PIL import Image
from workbench import change_a_weight, tiny_network

from nnunet_ssl._bootstrap import trainers_folder
from nnunet_ssl.checkpoints import read_whole
from nnunet_ssl.errors import InputError, machine_fault, refusal
from nnunet_ssl.results.export import PREDICTION_KEYS
from nnunet_ssl.results.training_log import read_logs
from nnunet_ssl.training.pretrained import HEADS, NNUNETS_CALLER, NNUNETS_LOADER

# what `ResumableTrainer._write` writes beside our own entry
KEYS = {"network_weights", "optimizer_state", "grad_scaler_state", "logging", "_best_ema", "current_epoch"}
KEYS |= {"init_args", "trainer_name", "inference_allowed_mirroring_axes"}
CURVES = ["mean_fg_dice", "ema_fg_dice", "dice_per_class_or_region", "train_losses", "val_losses", "lrs"]
CURVES += ["epoch_start_timestamps", "epoch_end_timestamps"]


@pytest.fixture
def stock_checkpoint(trainer) -> Path:
    """Written by nnU-Net's trainer after an epoch whose steps were made up."""
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    trainer.on_train_epoch_end([{"loss": np.array(0.5, np.float32)}] * 2)
    counts = dict.fromkeys(("tp_hard", "fp_hard", "fn_hard"), np.ones(2, np.float32))
    trainer.on_validation_epoch_end([{"loss": np.array(0.5, np.float32), **counts}])
    file = Path(trainer.output_folder) / "checkpoint_stock.pth"
    trainer.save_checkpoint(str(file))
    return file


# ---------------------------------------------------------------------- checkpoints


def test_keys_of_a_checkpoint(stock_checkpoint):
    """`ResumableTrainer` writes and reads these itself: a new one would be lost, a lost one is asked for."""
    content = torch.load(stock_checkpoint, weights_only=False)
    assert content.keys() == KEYS and set(PREDICTION_KEYS) <= KEYS
    assert content["trainer_name"] == "nnUNetTrainer" and content["current_epoch"] == 1


def test_weights_in_a_checkpoint_have_the_names_of_the_plain_network(stock_checkpoint, trainer):
    """Export and `-pretrained_weights` take them as they are, without prefixes of DDP and torch.compile."""
    weights = torch.load(stock_checkpoint, weights_only=False)["network_weights"]
    assert weights.keys() == trainer.network.state_dict().keys()


def test_a_checkpoint_of_nnunet_loads_as_data(stock_checkpoint):
    """`-pretrained_weights` and export run nothing of a file: what nnU-Net logs must be plain or NumPy's numbers."""
    content, fault = read_whole(stock_checkpoint, "cpu")
    assert (fault, content.keys()) == ("", KEYS)


def test_arguments_in_a_checkpoint(stock_checkpoint, dataset):
    """Export and the lineage of weights look up dataset, plans and configuration of a stranger's checkpoint there."""
    arguments = torch.load(stock_checkpoint, weights_only=False)["init_args"]
    assert arguments["plans"]["dataset_name"] == dataset.name
    assert (arguments["configuration"], arguments["fold"]) == ("3d_fullres", 0)


# ---------------------------------------------------------------------- logs


def test_logged_values_are_lists_by_name(trainer, stock_checkpoint):
    """A checkpoint in mid-epoch cuts each list to the epochs that are over, and `terms` of a method join them."""
    logging = trainer.logger.get_checkpoint()
    assert sorted(logging) == sorted(CURVES) and logging is trainer.logger.local_logger.my_fantastic_logging
    lengths = {name: len(values) for name, values in logging.items()}
    assert lengths.pop("epoch_end_timestamps") == 0 and set(lengths.values()) == {1}


def test_average_of_dice_is_logged_by_the_logger(tmp_path):
    """`_make_up_for_best` compares `ema_fg_dice`, which nobody logs by hand, with `_best_ema`."""
    logger = MetaLogger(str(tmp_path), False)
    for epoch, dice in enumerate((0.5, 0.6)):
        logger.log("mean_fg_dice", dice, epoch)
    assert logger.get_value("ema_fg_dice", step=None) == pytest.approx([0.5, 0.51])


def test_local_logger_can_be_replaced(tmp_path):
    """The trainer puts `ProgressLogger` in its place: all that nnU-Net logs, loads and draws must go through it."""
    calls = []

    class Own(LocalLogger):
        def log(self, key, value, epoch):
            calls.append(("log", key, value, epoch))
            super().log(key, value, epoch)

        def plot_progress_png(self, output_folder):
            calls.append(("plot", output_folder))

    logger = MetaLogger(str(tmp_path), False)
    logger.local_logger = own = Own()
    logger.log("lrs", 0.1, 0)
    logger.plot_progress_png("folder")
    assert calls == [("log", "lrs", 0.1, 0), ("plot", "folder")]
    logger.load_checkpoint({"lrs": [0.3]})
    assert own.my_fantastic_logging == {"lrs": [0.3]} == logger.get_checkpoint()


def test_further_loggers_take_name_value_and_epoch(tmp_path):
    """The trainer logs terms to each of `loggers` itself, by position."""
    assert MetaLogger(str(tmp_path), False).loggers == []
    assert list(inspect.signature(WandbLogger.log).parameters) == ["self", "key", "value", "step"]


def test_progress_is_drawn_with_lists_of_ours_among_them(tmp_path):
    """`progress.png` is what we draw below; nnU-Net draws as many epochs as the shortest list has: terms have NaN."""
    logger = LocalLogger()
    for name in CURVES:
        logger.my_fantastic_logging[name] = [1.0, 2.0]
    logger.my_fantastic_logging["semi_supervised/consistency"] = [float("nan"), 1.0]
    logger.plot_progress_png(str(tmp_path))
    with Image.open(tmp_path / "progress.png") as drawn:
        assert drawn.width > 1000


def test_lines_of_the_log(trainer, monkeypatch):
    """The report reads its curves, and the demo its progress, from the training's log."""
    monkeypatch.setattr(trainer, "save_checkpoint", lambda file: None)
    monkeypatch.setattr(trainer.logger, "plot_progress_png", lambda folder: None)
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    trainer.on_train_epoch_end([{"loss": np.array(0.5, np.float32)}])
    counts = {"tp_hard": np.array([1.0, 3.0]), "fp_hard": np.array([1.0, 0]), "fn_hard": np.array([1.0, 0])}
    trainer.on_validation_epoch_end([{"loss": np.array(0.25, np.float32), **counts}])
    trainer.on_epoch_end()
    curve, seconds, _ = read_logs([Path(trainer.log_file).read_text(encoding="utf-8")])
    assert (curve["train_loss"], curve["val_loss"], curve["pseudo_dice"]) == ([0.5], [0.25], [[0.5, 1.0]])
    assert seconds is not None


# ---------------------------------------------------------------------- the command


class Stub:
    """Stands for a trainer in nnU-Net's command and writes down what it is asked."""

    def __init__(self, folder=""):
        self.output_folder, self.was_initialized, self.network = str(folder), False, torch.nn.Identity()
        self.calls = []

    def initialize(self):
        self.calls.append("initialize")

    def load_checkpoint(self, file):
        self.calls.append(Path(file).name)

    def run_training(self):
        self.calls.append("train")

    def perform_actual_validation(self, save_probabilities):
        self.calls.append(("validate", save_probabilities))


@pytest.mark.parametrize("left", [["final", "latest", "best"], ["latest", "best"], ["best"], []])
def test_order_in_which_c_looks_for_checkpoints(tmp_path, left):
    """`lineage.set_aside` moves an earlier final one away, since `--c` takes it first; a stop writes the latest."""
    for name in left:
        (tmp_path / f"checkpoint_{name}.pth").touch()
    trainer = Stub(tmp_path)
    run_training.maybe_load_checkpoint(trainer, True, False)
    assert trainer.calls == [f"checkpoint_{name}.pth" for name in left[:1]]


def test_val_loads_the_final_checkpoint(tmp_path):
    """`--val` is how the runner makes up for a validation that was cut off."""
    (tmp_path / "checkpoint_final.pth").touch()
    trainer = Stub(tmp_path)
    run_training.maybe_load_checkpoint(trainer, False, True)
    assert trainer.calls == ["checkpoint_final.pth"]


def test_pretrained_weights_are_loaded_where_we_look_for_them(monkeypatch):
    """The trainer is told nothing: we find file and mode in this frame, and put our loader in its module meanwhile."""
    monkeypatch.setattr(run_training, NNUNETS_LOADER, None)
    loaded, trainer = [], Stub()

    def initialize():
        caller = inspect.currentframe().f_back
        assert caller.f_code.co_name == NNUNETS_CALLER
        assert caller.f_locals["validation_only"] is False
        assert caller.f_locals["pretrained_weights_file"] == "weights.pth"
        caller.f_globals[NNUNETS_LOADER] = lambda *arguments, **other: loaded.append((arguments, other))

    trainer.initialize = initialize
    run_training.maybe_load_checkpoint(trainer, False, False, "weights.pth")
    assert loaded == [((trainer.network, "weights.pth"), {"verbose": True})]


def test_every_way_to_train_loads_through_that_function():
    """With one GPU and with several it is this function by name that asks for pretrained weights."""
    for function in (run_training.run_training, run_training.run_ddp):
        assert {NNUNETS_CALLER, "perform_actual_validation"} <= {*function.__code__.co_names}


def test_command_validates_after_the_training(monkeypatch):
    """A stop leaves by SystemExit out of `run_training`: nothing is validated then. `--npz` reaches the validation."""
    trainer = Stub()
    monkeypatch.setattr(run_training, "get_trainer_from_args", lambda *arguments, **other: trainer)
    run_training.run_training("7", "3d_fullres", 0, export_validation_probabilities=True, device=torch.device("cpu"))
    assert trainer.calls == ["train", ("validate", True)]


def test_a_trainer_is_made_from_these_arguments():
    """The benchmarks, and our tests, make trainers as the command does, by position."""
    names = ["dataset_name_or_id", "configuration", "fold", "trainer_name", "plans_identifier", "continue_training"]
    assert list(inspect.signature(run_training.get_trainer_from_args).parameters) == [*names, "device"]


def test_nnunet_leaves_heads_out_of_pretrained_weights(tmp_path):
    """`pretrained.py` does the same for every network, by the same part of the name."""
    network, other = tiny_network(3, 2, seed=0), tiny_network(3, 2, seed=1)
    torch.save({"network_weights": other.state_dict()}, tmp_path / "weights.pth")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    load_pretrained_weights(network, str(tmp_path / "weights.pth"))
    for name, value in network.state_dict().items():
        source = before if HEADS in f".{name}" else other.state_dict()
        assert torch.equal(value, source[name]), name


def test_trainers_are_found_in_folders_of_a_variable_and_forgotten(monkeypatch):
    """`_bootstrap.py` appends our folder; modules are dropped after the import, so a trainer keeps its file's name."""
    monkeypatch.setenv("nnUNet_extTrainer", f"/nowhere:{trainers_folder()}")
    found = recursive_find_trainer_class_by_name("nnUNetTrainerSupervised")
    assert Path(found.file) == Path(trainers_folder()) / "nnUNetTrainerSupervised.py"
    assert found.__module__ == "nnUNetTrainerSupervised" not in sys.modules


def test_an_unknown_trainer_is_a_runtime_error():
    """`runner/plan.py` makes a line of it."""
    with pytest.raises(RuntimeError, match="nnUNetTrainerNobody"):
        recursive_find_trainer_class_by_name("nnUNetTrainerNobody")


# ---------------------------------------------------------------------- torch's files and errors


def test_a_checkpoint_is_an_archive_with_checksums(tmp_path):
    """Damage is found by `zipfile`: torch writes checksums but loads changed weights without a word."""
    file = tmp_path / "weights.pth"
    torch.save({"weights": torch.zeros(10_000)}, file)
    change_a_weight(file)
    assert torch.load(file)["weights"].any()
    assert read_whole(file, "cpu") == (None, "weights/data/0 is damaged")


def test_what_is_no_data_is_named_by_torch(tmp_path):
    """`checkpoints.py` finds the name of what a file would run in torch's message."""
    torch.save({"code": Stub()}, tmp_path / "code.pth")
    assert read_whole(tmp_path / "code.pth", "cpu")[1] == f"it holds more than data: {__name__}.Stub"


def test_a_full_disk_is_the_context_of_torchs_error(tmp_path):
    """`write_checkpoint` takes the reason from there where torch fails again while it closes the file."""

    class Full:
        def write(self, data):
            raise OSError(28, "No space left on device")

        def flush(self):
            pass

    with pytest.raises((RuntimeError, OSError)) as caught:
        torch.save({"weights": torch.zeros(1000)}, Full())
    error = caught.value
    assert (error if isinstance(error, OSError) else error.__context__).errno == 28


def test_want_of_memory_is_told_by_torch():
    """`errors.machine_fault` knows it by the allocator's name, or by the name of the exception on a GPU."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**48, dtype=torch.uint8)
    assert machine_fault(caught.value).startswith("Not enough memory")
    assert torch.cuda.OutOfMemoryError.__name__ == "OutOfMemoryError"


def refuse(rank):
    raise InputError("fold 0: mend it")


def test_a_refusal_of_a_rank_arrives_as_its_traceback():
    """With several GPUs `nnUNetv2_train` itself sees an exception of torch's: the refusal is read out of its text."""
    with pytest.raises(Exception) as caught:  # noqa: B017 (of which class is what `refusal` asks)
        torch.multiprocessing.start_processes(refuse, nprocs=1, start_method="fork")
    assert refusal(caught.value) == "fold 0: mend it"
