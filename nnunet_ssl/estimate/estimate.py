"""What a training will take on this machine, measured on a few steps of it in folders that are removed again."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ssl.data.loader import unlabeled_files
from nnunet_ssl.data.not_annotated import of_preprocessed
from nnunet_ssl.data.plans import read_plans_file, require_configurations
from nnunet_ssl.data.raw import environment_folder, preprocessed_folder
from nnunet_ssl.data.splits import FILE as SPLITS
from nnunet_ssl.data.unlabeled import unlabeled_folder
from nnunet_ssl.errors import InputError
from nnunet_ssl.estimate.rehearsal import MODULE, Task
from nnunet_ssl.listing import PREFIX, full_name
from nnunet_ssl.machine import cores
from nnunet_ssl.method import Method
from nnunet_ssl.runner.local import interrupted_by_signals
from nnunet_ssl.runner.plan import method_of_trainer, overrides_by_method
from nnunet_ssl.training.settings import VARIABLE

CHECKPOINTS = 3  # best and latest, and the final one before nnU-Net removes the latest


def estimate(
    dataset_id: int,
    configuration: str,
    trainer: str,
    fold: str = "0",
    plans: str = "nnUNetPlans",
    device: str = "cuda",
    config: str = "",
) -> dict[str, Any]:
    """Rehearses a training for some steps and tells what all of it would take; nothing of it is left.

    Args:
        fold: a number, or "all".
        device: "cuda" on a machine without a GPU gives memory and disk, and no time.
        config: overrides, as of the variable `nnUNet_ssl_config`.

    Returns:
        What `rehearsal.rehearse` and `rehearsal.remember` found, phase by phase, with names, "cores", "folders" (bytes
        of what training reads), "results_bytes" (that it writes), "free_bytes" and, where steps were made, "hours".
        "out_of_memory" is true if the GPU was too small for a step.

    Raises:
        InputError: what a training needs is missing or not in order, as the training itself would say.
    """
    base = preprocessed_folder(dataset_id)
    content = read_plans_file(base, plans, dataset_id)
    require_configurations([configuration], content["configurations"], base / f"{plans}.json")
    name = full_name(trainer)
    settings = overrides_by_method([name.removeprefix(PREFIX)], config)[name.removeprefix(PREFIX)]
    if fold != "all" and not fold.isdecimal():
        raise InputError(f"-f {fold[:40]}: give the number of a fold, or all.")
    manager = PlansManager(content)
    folders = _folders(base, manager, configuration, dataset_id, fold, method_of_trainer(name))
    results = environment_folder("nnUNet_results").absolute()
    first = manager.get_configuration(configuration).previous_stage_name
    earlier = results / base.name / f"{name}__{plans}__{first}"  # of a cascade
    with_steps = device == "cpu" or torch.cuda.is_available()
    found: dict[str, Any] = {"trainer": name, "dataset": base.name, "configuration": configuration, "fold": fold}
    found |= {"plans": plans, "device": device, "overrides": settings, "cores": cores(), "folders": folders}
    with tempfile.TemporaryDirectory(prefix="nnunet_ssl_estimate_") as aside, interrupted_by_signals():
        environment = _environment(Path(aside), base, fold, earlier) | {VARIABLE: json.dumps(settings)}

        def part(name: str) -> dict[str, Any]:
            task = Task(base.name, configuration, fold, found["trainer"], plans, device, name)
            return _run(task, environment, Path(aside), base.parent)

        print("The memory of a step ...", flush=True)
        found |= part("memory")
        if with_steps:
            print("Ten steps of each phase ...", flush=True)
            of_steps = part("steps")
            pairs = zip(found["phases"], of_steps.pop("phases", found["phases"]), strict=True)
            found |= of_steps | {"phases": [of_memory | timed for of_memory, timed in pairs]}
    there = next(folder for folder in (results, *results.parents) if folder.is_dir())
    return found | _totals(found) | {"free_bytes": shutil.disk_usage(there).free}


def _totals(found: dict[str, Any]) -> dict[str, Any]:
    """Of a rehearsal with steps, the hours of each phase and of all, and what is written to `nnUNet_results`."""
    if "start_s" not in found:
        return {}
    phases, validation = [], found["validation_steps"] * found["validation_step_s"]
    for number, phase in enumerate(found["phases"]):
        seconds = phase["first_s"] + phase["epochs"] * (found["steps"] * phase["step_s"] + validation)
        seconds += found["labeling_s"] if number else 0
        phases.append(phase | {"hours": seconds / 3600})
    hours = (found["start_s"] + found["validation_s"]) / 3600 + sum(phase["hours"] for phase in phases)
    return {
        "phases": phases,
        "hours": hours,
        "results_bytes": CHECKPOINTS * found["checkpoint_bytes"] + found["beside_bytes"],
    }


def _folders(
    base: Path, manager: PlansManager, configuration: str, dataset_id: int, fold: str, method: type[Method] | None
) -> dict[str, dict[str, int]]:
    """Cases and bytes of the preprocessed folders that a training reads.

    Raises:
        InputError: nnU-Net's is missing or empty, or that of the unlabeled cases is not in order.
    """
    settings = manager.get_configuration(configuration)
    nnunets = base / settings.data_identifier
    asked = f"-d {dataset_id} -c {configuration}"
    found = {"labeled": _size(nnunets, "_seg.b2nd")}
    if not found["labeled"]["cases"]:
        raise InputError(
            f"nnU-Net has not preprocessed {configuration}: {nnunets} is missing or empty. "
            f"Run nnUNetv2_preprocess {asked} -plans_name {manager.plans_name}."
        )
    if method is not None and method.reads_unlabeled():
        cases, hidden = unlabeled_files(base, manager, configuration, fold, of_preprocessed(base))
        found["unlabeled"] = _size(unlabeled_folder(base, settings), ".b2nd")
        found["unlabeled"]["cases"] = len(cases) + len(hidden)
    return found


def _size(folder: Path, ending: str) -> dict[str, int]:
    """Bytes of a folder's files, and how many names have an ending."""
    cases = size = 0
    if folder.is_dir():
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_file():
                    cases += entry.name.endswith(ending)
                    size += entry.stat().st_size
    return {"cases": cases, "bytes": size}


def _environment(aside: Path, base: Path, fold: str, earlier: Path) -> dict[str, str]:
    """In which nnU-Net writes results, and folds that it still has to draw, into folders aside.

    Args:
        earlier: what a training reads of the results, if it is there.
    """
    results = aside / "results" / base.name
    variables = {"nnUNet_results": str(results.parent)}
    results.mkdir(parents=True)
    if earlier.is_dir():
        (results / earlier.name).symlink_to(earlier)
    if fold != "all" and not (base / SPLITS).is_file():
        mirror = aside / "preprocessed" / base.name
        mirror.mkdir(parents=True)
        for entry in base.iterdir():
            (mirror / entry.name).symlink_to(entry.absolute())
        variables["nnUNet_preprocessed"] = str(mirror.parent)
    return os.environ | variables


def _run(task: Task, environment: Mapping[str, str], aside: Path, preprocessed: Path) -> dict[str, Any]:
    """What a rehearsal in a process of its own has found; it and its loaders end with this call, however that ends.

    Raises:
        InputError: the training would be refused.
        RuntimeError: it failed in another way; what it printed is the message.
    """
    file, log = aside / f"{task.part}.json", aside / f"{task.part}.txt"
    command = [sys.executable, "-m", MODULE, json.dumps(asdict(task)), str(time.time()), str(file)]
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            command, env=dict(environment), stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
            start_new_session=True,
        )  # fmt: skip
        try:
            process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):  # all of it has ended
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if not file.is_file():
        raise RuntimeError(f"The rehearsal of {task.trainer} failed:\n\n{log.read_text(encoding='utf-8')[-5000:]}")
    found = json.loads(file.read_text(encoding="utf-8"))
    if "refusal" in found:
        told = found["refusal"].replace(str(aside / "preprocessed"), str(preprocessed))
        raise InputError(told.replace(str(aside / "results"), os.environ["nnUNet_results"]))
    return found
