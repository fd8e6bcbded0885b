"""Which runs a grid of methods, folds and seeds has, what each still needs, and the command for it.

What a run still needs is read from its fold's folder, so the same command again skips what is finished and goes on
with what was cut off, if its origin (`nnunet_ssl.data.origin`) is that of the run. Several seeds lie apart, each in its
own nnU-Net results folder `<nnUNet_results>/seed_<seed>`.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunet_ssl.commands import find_command
from nnunet_ssl.data.origin import ORIGIN_FILE, Origin, differences, present_origin, read_origin
from nnunet_ssl.data.plans import read_plans_file, require_configurations
from nnunet_ssl.data.raw import environment_folder, listed, preprocessed_folder, read_dataset_json
from nnunet_ssl.data.splits import FILE as SPLITS_FILE
from nnunet_ssl.data.splits import SEED as SPLIT_SEED
from nnunet_ssl.data.splits import read_splits, write_splits
from nnunet_ssl.errors import InputError
from nnunet_ssl.listing import BASELINE, PREFIX, full_name, trainer_names
from nnunet_ssl.method import Method
from nnunet_ssl.names import suggestion
from nnunet_ssl.results.evaluation import read_labels
from nnunet_ssl.results.measured import read_metrics, read_summary
from nnunet_ssl.runner.testing import MODULE, require_test_cases
from nnunet_ssl.training.configured import NNUNET_FOLDS, ConfiguredTrainer
from nnunet_ssl.training.settings import STREAM_SETTINGS, TRAINER_SETTINGS, VARIABLE, check_settings, parse_overrides

TRAINER = PREFIX
FLAGS = {"new": [], "resume": ["--c"], "validate": ["--val"]}  # of nnUNetv2_train


@dataclass(frozen=True)
class Run:
    """One training: a method on a fold, with a seed of its own or None."""

    method: str
    fold: int
    seed: int | None = None

    def __str__(self) -> str:
        return f"{self.method} fold {self.fold}" + ("" if self.seed is None else f" seed {self.seed}")


@dataclass(frozen=True)
class Experiment:
    """What all runs share.

    Attributes:
        dataset: folder name, Dataset018_Heart.
        results: `nnUNet_results`.
        overrides: by method, what `nnUNet_ssl_config` holds for its runs.
        program: the path of `nnUNetv2_train`.
        test: whether a run is finished only when its final checkpoint was measured on the test cases.
        baseline: the method that tables show first.
    """

    dataset_id: int
    dataset: str
    configuration: str
    plans: str
    device: str
    results: Path
    overrides: dict[str, dict[str, Any]]
    program: str
    test: bool = False
    baseline: str = BASELINE

    def root(self, run: Run) -> Path:
        """The `nnUNet_results` of a run."""
        return self.results if run.seed is None else self.results / f"seed_{run.seed}"

    def folder(self, run: Run) -> Path:
        """Where nnU-Net writes a run."""
        model = f"{TRAINER}{run.method}__{self.plans}__{self.configuration}"
        return self.root(run) / self.dataset / model / f"fold_{run.fold}"

    def state(self, run: Run) -> str:
        """What is there of a run: "finished", "test", "validate" (trained only), "resume" (cut off) or "new"."""
        folder = self.folder(run)
        if (folder / "checkpoint_final.pth").is_file():
            if not read_summary(folder):
                return "validate"
            return "test" if self.test and read_metrics(folder) is None else "finished"
        cut_off = any((folder / f"checkpoint_{name}.pth").is_file() for name in ("latest", "best"))
        return "resume" if cut_off else "new"

    def command(self, run: Run) -> list[str]:
        """The command that brings an unfinished run from its state to the next: validated, then tested."""
        network = ["-tr", f"{TRAINER}{run.method}", "-p", self.plans, "-device", self.device]
        if (state := self.state(run)) == "test":
            what = [str(self.dataset_id), str(self.folder(run)), "-c", self.configuration, "-f", str(run.fold)]
            return [sys.executable, "-m", MODULE, *what, *network]
        return [
            *(self.program, str(self.dataset_id), self.configuration, str(run.fold), *network, *FLAGS[state]),
            "--npz",  # nnUNetv2_find_best_configuration ensembles from the validation's probabilities
        ]

    def settings(self, run: Run) -> dict[str, Any]:
        """The overrides of a run, its seed among them."""
        return self.overrides[run.method] | ({} if run.seed is None else {"seed": run.seed})

    def origin(self, run: Run) -> Origin:
        """What a run would be made of if it began now."""
        method = method_of_trainer(f"{TRAINER}{run.method}")
        base = preprocessed_folder(self.dataset_id)
        return present_origin(
            *(base, read_plans_file(base, self.plans, self.dataset_id), self.configuration, run.fold),
            *(f"{TRAINER}{run.method}", bool(method and method.reads_unlabeled())),
            check_settings(method, self.settings(run), VARIABLE).overrides,
        )

    def strangeness(self, run: Run) -> list[str]:
        """In short phrases, what of the training in a run's folder is not as the run asks for; nothing if it is new."""
        if self.state(run) == "new":
            return []
        before = read_origin(self.folder(run))
        if before is None:
            return [f"its origin is unknown: no {ORIGIN_FILE}, as of trainings by hand with other trainers or versions"]
        now = self.origin(run)
        found = differences(before, now)
        if more := sorted({*before.learned} - {*now.learned} - {*before.train}):
            found.append(f"earlier weights or a first stage have learned others, too ({listed(more, separator=', ')})")
        if not before.complete:
            found.append("not all that its weights or first stage have learned is known")
        return [" ".join(phrase.split()) for phrase in (*found, *before.history)]

    def environment(self, run: Run, gpu: str | None) -> dict[str, str]:
        """The environment of a run; `gpu` None leaves the choice as it is."""
        variables = {
            "nnUNet_results": str(self.root(run)),
            VARIABLE: json.dumps(self.settings(run)),
            "PYTHONUNBUFFERED": "1",  # so that the log can be followed
        }
        return os.environ | variables | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})


def words(texts: Iterable[str] | None) -> list[str]:
    """The words of repeated, comma or space separated options, each once, in order."""
    return list(dict.fromkeys(word for text in texts or [] for word in re.split(r"[,\s]+", text) if word))


def numbers(texts: Iterable[str] | None, option: str) -> list[int]:
    """Like `words`, as numbers from 0. Raises InputError for anything else."""
    found = words(texts)
    if wrong := [word for word in found if not re.fullmatch(r"[0-9]{1,9}", word)]:
        raise InputError(f"{option} {' '.join(wrong)[:60]}: give whole numbers from 0, such as {option} 0,1,2.")
    return list(dict.fromkeys(map(int, found)))


def plan(
    dataset_id: int,
    configuration: str,
    methods: Sequence[str],
    folds: Sequence[int] = (),
    seeds: Sequence[int] = (),
    baseline: str | None = None,
    plans: str = "nnUNetPlans",
    device: str = "cuda",
    config: str = "",
    program: str | None = None,
    test: bool = False,
    dry: bool = False,
) -> tuple[Experiment, list[Run]]:
    """The runs of a grid, fold by fold so that methods can be compared early, the baseline first.

    Args:
        methods: names after `nnUNetTrainer`.
        baseline: such a name, of what the methods are compared with; None to run none.
        folds: all of `splits_final.json` if empty; nnU-Net's file is written if there is none yet.
        seeds: none means one run per method and fold, in plain `nnUNet_results`.
        config: a YAML file or a mapping; a trainer gets the keys that it knows.
        program: `nnUNetv2_train`; that of this Python environment if None.
        test: whether each final checkpoint is to be measured on the test cases of the raw dataset.
        dry: nothing is written, `splits_final.json` neither.

    Raises:
        InputError: for whatever would let every run fail, or let results of another experiment pass for this one's.
    """
    base = preprocessed_folder(dataset_id)
    available = read_plans_file(base, plans, dataset_id)["configurations"]
    require_configurations([configuration], available, base / f"{plans}.json")
    dataset_file = base / "dataset.json"  # the table at the end names its classes
    read_labels(read_dataset_json(dataset_file, f"run nnUNetv2_plan_and_preprocess -d {dataset_id}"), dataset_file)
    asked = [*([baseline] if baseline else []), *methods]
    methods = list(dict.fromkeys(full_name(method).removeprefix(TRAINER) for method in asked))
    if not methods:
        raise InputError("Nothing to run: name methods, such as --methods BCP CutMix, or add --baseline.")
    overrides = overrides_by_method(methods, config)
    if test:
        require_test_cases(dataset_id)
    if seeds and any("seed" in asked for asked in overrides.values()):
        raise InputError("The overrides hold a seed, and --seeds is given: keep one of them.")
    has_splits = (base / SPLITS_FILE).is_file()
    if not has_splits and not dry:  # else trainings that start at once would all write it
        write_splits(dataset_id, None, SPLIT_SEED, NNUNET_FOLDS, force=False)
    count = len(read_splits(base / SPLITS_FILE)) if has_splits or not dry else NNUNET_FOLDS
    if wrong := [fold for fold in folds if fold >= count]:
        raise InputError(f"{base / SPLITS_FILE} has folds 0 to {count - 1}: there is no {', '.join(map(str, wrong))}.")
    experiment = Experiment(
        *(dataset_id, base.name, configuration, plans, device),
        *(environment_folder("nnUNet_results").absolute(), overrides, program or find_command("nnUNetv2_train"), test),
        methods[0] if baseline else BASELINE,
    )
    runs = [Run(method, fold, seed) for seed in seeds or [None] for fold in folds or range(count) for method in methods]
    require_own(experiment, runs)
    return experiment, runs


STATES = {
    "new": "to train",
    "resume": "to go on where it was cut off",
    "validate": "trained, to validate",
    "test": "validated, to predict the test cases",
    "finished": "finished, nothing to do",
}


def in_lines(experiment: Experiment, runs: Sequence[Run]) -> str:
    """Each run with its state and folder, and how many are left: what would happen now."""
    states = {run: experiment.state(run) for run in runs}
    left = sum(state != "finished" for state in states.values())
    rows = [f"{run}: {STATES[state]}\n    {experiment.folder(run)}" for run, state in states.items()]
    return "\n".join([*rows, f"{left} of {len(runs)} runs are left; nothing was started."])


def require_own(experiment: Experiment, runs: Sequence[Run]) -> None:
    """Looks at what is there of the runs, finished or cut off.

    Raises:
        InputError: a folder holds a training of other cases, plans, length or overrides, or of unknown origin.
    """
    found = {run: strange for run in runs if (strange := experiment.strangeness(run))}
    if found:
        lines = [f"{run}: {'; '.join(strange)} [{experiment.folder(run)}]" for run, strange in found.items()]
        raise InputError(
            f"{len(found)} of {len(runs)} runs are there, but of another experiment than this one. Remove their "
            "folders to train them anew, set another nnUNet_results to keep them, or give the overrides that they were "
            "trained with (--config):\n  " + listed(lines, separator="\n  ")
        )


def overrides_by_method(methods: Sequence[str], config: str) -> dict[str, dict[str, Any]]:
    """Of the overrides, for each trainer those that it knows, checked as the trainer will.

    Raises:
        InputError: no such trainer, a key that no trainer of the grid knows, a wrong value.
    """
    asked, source = parse_overrides(config)
    classes = {method: method_of_trainer(f"{TRAINER}{method}") for method in methods}
    known = {
        method: TRAINER_SETTINGS.keys()
        | ({"preset", *_hyperparameters(cls)} if cls else set())
        | (STREAM_SETTINGS.keys() if cls and cls.reads_unlabeled() else set())
        for method, cls in classes.items()
    }
    somewhere = set().union(*known.values())
    overrides = {}
    for method, cls in classes.items():
        # what no trainer knows stays in, and is the error that check_settings raises
        mine = {key: value for key, value in asked.items() if key in known[method] or key not in somewhere}
        check_settings(cls, mine, source)
        overrides[method] = mine
    return overrides


def _hyperparameters(method: type[Method]) -> set[str]:
    """Of a method and of all its presets."""
    chosen = (method.of_preset(preset)[0] for preset in ("default", *method.presets))
    return {name for each in chosen for name in each.hyperparameters()}


@functools.cache
def method_of_trainer(name: str) -> type[Method] | None:
    """The method of a trainer's class; None for the supervised baseline.

    Raises:
        InputError: there is no such trainer, or it is none of this package's kind.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # nnU-Net tells where it searches
        try:
            trainer = recursive_find_trainer_class_by_name(name)
        except RuntimeError:
            near = suggestion(name.removeprefix(TRAINER), trainer_names())
            raise InputError(f"There is no trainer {name[:60]}. {near}") from None
    if not issubclass(trainer, ConfiguredTrainer):
        raise InputError(f"{name} of {trainer.__module__} is not a trainer of nnunet_ssl and takes no overrides.")
    return trainer.method
