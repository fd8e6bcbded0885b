"""A few steps of a training, through its own trainer and loaders: a program that `estimate` starts, with folders aside.

It reads a `Task` and writes a JSON file: what `rehearse` or `remember` returns, or {"refusal": why it is refused}.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import torch
from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window
from nnunetv2.run.run_training import get_trainer_from_args

from nnunet_ssl.data.loader import open_array
from nnunet_ssl.errors import InputError, machine_fault, refusal
from nnunet_ssl.estimate.memory import step_bytes
from nnunet_ssl.training import case_maps
from nnunet_ssl.training.configured import ConfiguredTrainer
from nnunet_ssl.training.pseudo_labels import begin_folder, labels_folder
from nnunet_ssl.training.trainer import SemiSupervisedTrainer
from nnunet_ssl.training.unlabeled_pool import unlabeled_pool

MODULE = "nnunet_ssl.estimate.rehearsal"
STEPS = 10
AT_ONCE = 0.02  # seconds; a batch that comes faster had been waiting
SAMPLE = 50  # cases that stand for a pool
BATCHES = 3  # of which the first also opens files


@dataclass(frozen=True)
class Task:
    """What to rehearse.

    Attributes:
        dataset: folder name.
        trainer: name of the class.
        device: "cpu" or "cuda".
        part: "steps" or "memory".
    """

    dataset: str
    configuration: str
    fold: str
    trainer: str
    plans: str
    device: str
    part: str

    def make_trainer(self, device: str) -> ConfiguredTrainer:
        """As `nnUNetv2_train` makes it."""
        fold = self.fold if self.fold == "all" else int(self.fold)
        names = (self.dataset, self.configuration, fold, self.trainer, self.plans)
        trainer = get_trainer_from_args(*names, False, torch.device(device))
        if isinstance(trainer, SemiSupervisedTrainer):
            trainer.label_pool = lambda: _label_nothing(trainer)  # labeling in earnest may take hours
            trainer.mix_labeled_until = 1.0  # the last epoch stands for all
        return trainer


def rehearse(task: Task, begun: float) -> dict[str, Any]:
    """Ten steps of each phase, and what comes once.

    Args:
        begun: when this process was started, `time.time()`.

    Returns:
        "phases": of each {"epochs", "first_s": its first step with all that this starts, "step_s": seconds a step,
        "wait_s": of which for a batch, "peak_bytes": on a GPU}; "start_s" until the first batch, "processes" of the
        loaders, and what `_once` tells.
    """
    trainer = task.make_trainer(task.device)
    trainer.initialize()
    trainer.on_train_start()
    loader = trainer._train_steps.loader
    found: dict[str, Any] = {"processes": getattr(loader, "num_processes", 0), "phases": []}
    next(trainer.dataloader_train)
    found["start_s"] = time.time() - begun
    for first, last in _phases(trainer):
        found["phases"].append({"epochs": last - first + 1} | _steps_of_phase(trainer, first, last))
    found |= _once(trainer)
    trainer._train_steps.end_workers()
    trainer._validation_steps.end_workers()
    return found


def remember(task: Task) -> dict[str, Any]:
    """The memory of a step in each phase, and the work of its loaders, without a device.

    Returns:
        "phases": of each {"float32_bytes", "half_bytes": of a step, as on a CPU and with nnU-Net's autocast on a GPU,
        "batch_core_s": seconds of one core that a batch takes}.
    """
    os.environ["nnUNet_n_proc_DA"] = "0"
    phases: list[dict[str, float]] = []
    while True:
        trainer = task.make_trainer("cpu")
        trainer.initialize()
        bounds = _phases(trainer)
        trainer.current_epoch = bounds[len(phases)][1]
        if len(phases) and "target" in trainer.method.views:
            trainer.label_pool()
        trainer.on_train_start()
        trainer.on_train_epoch_start()
        batch, seconds = _work_of_a_batch(trainer)
        sizes = step_bytes(trainer, batch, (None, torch.float16))
        phases.append({"float32_bytes": sizes[0], "half_bytes": sizes[1], "batch_core_s": seconds})
        if len(phases) == len(bounds):
            return {"phases": phases}


def _phases(trainer: ConfiguredTrainer) -> list[tuple[int, int]]:
    """First and last epoch of each phase."""
    starts = [0, *(trainer.phases.starts if isinstance(trainer, SemiSupervisedTrainer) else [])]
    return list(zip(starts, [*(start - 1 for start in starts[1:]), trainer.num_epochs - 1], strict=True))


def _steps_of_phase(trainer: ConfiguredTrainer, first: int, last: int) -> dict[str, float]:
    """Its first step, then ten in its last epoch, for some terms begin late; see `rehearse`."""
    on_gpu = trainer.device.type == "cuda"
    trainer.current_epoch = first
    trainer.on_train_epoch_start()
    begin = time.perf_counter()
    trainer.train_step(next(trainer.dataloader_train))
    _wait_for(trainer.device)
    found = {"first_s": time.perf_counter() - begin}
    trainer.current_epoch = last
    trainer.on_train_epoch_start()
    _take_what_waits(trainer)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(trainer.device)
    waits, steps = [], []
    for _ in range(STEPS + 1):  # the first one waits longer than any other: nothing lies ready
        begin = time.perf_counter()
        batch = next(trainer.dataloader_train)
        waits.append(time.perf_counter() - begin)
        trainer.train_step(batch)
        _wait_for(trainer.device)
        steps.append(time.perf_counter() - begin)
    found |= {"step_s": sum(steps[1:]) / STEPS, "wait_s": sum(waits[1:]) / STEPS}
    return found | ({"peak_bytes": torch.cuda.max_memory_allocated(trainer.device)} if on_gpu else {})


def _take_what_waits(trainer: ConfiguredTrainer) -> None:
    """Empties the queues of the loaders: what they hold ready would hide that they cannot keep up."""
    most = 3 * getattr(trainer._train_steps.loader, "num_cached", 0)
    for _ in range(most):
        begin = time.perf_counter()
        next(trainer.dataloader_train)
        if time.perf_counter() - begin > AT_ONCE:
            return


def _once(trainer: ConfiguredTrainer) -> dict[str, Any]:
    """What is not of a phase: lengths, sizes, and the seconds of validation.

    "validation_s" is nnU-Net's at the end, "labeling_s" the pseudo-labels' of each further phase, if there are any;
    "beside_bytes" what is written beside checkpoints.
    """
    device, folder = trainer.device, Path(trainer.output_folder)
    with torch.no_grad():
        trainer.on_validation_epoch_start()
        seconds = min(_seconds_of_validation(trainer) for _ in range(3))  # the first one warms up
    file = folder / "size_of_a_checkpoint.pth"
    trainer.save_checkpoint(str(file))
    per_patch, views = seconds / trainer.batch_size, 2 ** len(trainer.inference_allowed_mirroring_axes or ())
    _, val = trainer.do_split()
    written = sum(path.stat().st_size for path in (folder / case_maps.FOLDER).glob("*"))
    written += len(val) * _mean_size(Path(trainer.preprocessed_dataset_folder_base) / "gt_segmentations")
    nnunets, labeling = Path(trainer.preprocessed_dataset_folder), 0.0
    if "target" in getattr(trainer.method, "views", ()):
        files = [*unlabeled_pool(trainer).files.values()]
        labeling = per_patch * _patches(trainer, files)
        written += len(files) * _mean_size(nnunets, "*_seg.b2nd")
    return {
        "validation_step_s": seconds,
        "validation_s": per_patch * views * _patches(trainer, [str(nnunets / f"{case}.b2nd") for case in val]),
        "labeling_s": labeling,
        "checkpoint_bytes": file.stat().st_size,
        "beside_bytes": written,
        "epochs": trainer.num_epochs,
        "steps": trainer.num_iterations_per_epoch,
        "validation_steps": trainer.num_val_iterations_per_epoch,
        "patch": list(trainer.configuration_manager.patch_size),
        "batch": [trainer.batch_size, getattr(trainer, "unlabeled_batch_size", 0)],
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else "",
        "gpu_bytes": torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0,
    }


def _seconds_of_validation(trainer: ConfiguredTrainer) -> float:
    batch = next(trainer.dataloader_val)
    _wait_for(trainer.device)
    begin = time.perf_counter()
    trainer.validation_step(batch)
    _wait_for(trainer.device)
    return time.perf_counter() - begin


def _patches(trainer: ConfiguredTrainer, files: Sequence[str]) -> float:
    """How many patches nnU-Net's sliding window has in preprocessed images; some of many stand for all."""
    patch, some = trainer.configuration_manager.patch_size, files[:: max(1, len(files) // SAMPLE)]
    number = 0
    for file in some:
        shape = open_array(file).shape[1:]
        across = [max(side, own) for side, own in zip(shape[-len(patch) :], patch, strict=True)]
        windows = map(len, compute_steps_for_sliding_window(across, patch, 0.5))
        number += math.prod(windows) * math.prod(shape[: len(shape) - len(patch)])
    return number * len(files) / max(1, len(some))


def _mean_size(folder: Path, pattern: str = "*") -> float:
    """Bytes of a file of a folder, of some of them."""
    sizes = [file.stat().st_size for file in itertools.islice(folder.glob(pattern), SAMPLE)]
    return sum(sizes) / max(1, len(sizes))


def _work_of_a_batch(trainer: ConfiguredTrainer) -> tuple[dict, float]:
    """A batch of the loaders in this process, and the seconds of one core that each takes."""
    next(trainer.dataloader_train)  # opens files
    begin = time.process_time()
    for _ in range(BATCHES):
        batch = next(trainer.dataloader_train)
    return batch, (time.process_time() - begin) / BATCHES


def _label_nothing(trainer: SemiSupervisedTrainer) -> None:
    """Pseudo-labels for the phase at hand: background everywhere, in the cases' shapes."""
    pool = unlabeled_pool(trainer)
    folder = labels_folder(trainer, trainer.phases.of(trainer.current_epoch))
    begin_folder(folder, trainer.origin)
    for case, file in pool.files.items():
        blosc2.zeros(open_array(file).shape[1:], dtype=np.int16, urlpath=str(folder / f"{case}.b2nd"), mode="w")


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    """Reads a `Task` as JSON, when the process was started, and the file to write."""
    content, begun, file = sys.argv[1:]
    task = Task(**json.loads(content))
    try:
        found = rehearse(task, float(begun)) if task.part == "steps" else remember(task)
    except (InputError, NotImplementedError, OSError, MemoryError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            found = {"out_of_memory": True}
        elif not (reason := refusal(error) or machine_fault(error)):
            raise
        else:
            found = {"refusal": reason}
    Path(file).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
