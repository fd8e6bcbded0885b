"""The demo: the real pipeline, through its commands, on a phantom small enough for a CPU.

Everything lies in one folder, nnU-Net's three folders among it; the caller's environment is not changed.
"""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from rich.console import Console
from rich.table import Table

from nnunet_ssl.demo.phantom import write_phantom
from nnunet_ssl.demo.picture import Row, comparison_picture
from nnunet_ssl.demo.steps import LOGS, Steps
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import require_new_folder, write_json
from nnunet_ssl.locks import locked
from nnunet_ssl.report.overlays import chosen_cases
from nnunet_ssl.results.evaluation import evaluate_folders, read_labels

DATASET_ID, DATASET = "1", "Dataset001_Phantom"
CONFIGURATION, PLANS, FOLD = "2d", "nnUNetPlans_demo", "0"
# One slice that shows all four organs, so that a CPU soon finds them; cases that differ so much that three do not tell
# of all.
PHANTOM = {"shape": (1, 64, 64), "classes": 5, "variation": 2.0}
# Name in the tables -> trainer, and how many times as long an iteration takes once the unlabeled patches are in.
TRAINERS = {"Supervised": ("nnUNetTrainerSupervised", 1.0), "BCP": ("nnUNetTrainerBCP", 2.0)}
START = 0.5  # of the unlabeled patches, as a share of the epochs
# Seconds on two cores: the steps before the trainings and after them, what each training takes beside its iterations,
# and an iteration.
BEFORE, AFTER, BESIDE, ITERATION = (1, 16, 0.1, 7), (12, 12, 1, 1), 25, 0.06
CAUTION = (
    "BCP gained 3 to 12 points of Dice with five seeds. One short run on made-up data shows that everything works, "
    "not what you will gain."
)
MARKER = ".nnunet_ssl_demo"
RAW, PREPROCESSED, RESULTS = "nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"
PREDICTIONS = "predictions"
METRICS_FILE, TABLE_FILE, PICTURE_FILE = "metrics.json", "table.md", "comparison.png"


@dataclass(frozen=True)
class Size:
    """How large the demo is. One of the labeled cases is what nnU-Net validates on; the others train."""

    labeled: int = 4
    unlabeled: int = 60
    test: int = 20
    epochs: int = 10  # few and long: nnU-Net draws progress.png after each, in more than a second
    iterations_per_epoch: int = 120

    @property
    def text(self) -> str:
        return (
            f"{self.labeled - 1} labeled and {self.unlabeled} unlabeled training cases of one slice, "
            f"{self.epochs * self.iterations_per_epoch} iterations each"
        )


def run_demo(folder: Path, device: str, seed: int = 0, size: Size | None = None) -> None:
    """Makes the phantom in ``folder``, trains the baseline and BCP, predicts, evaluates and draws.

    ``folder`` must be new, empty, or that of an earlier demo, whose files are replaced. ``seed`` is that of the phantom
    and of both trainings. Prints the progress, the table, and where ``metrics.json``, ``table.md`` and
    ``comparison.png`` are.

    Raises InputError if the folder holds something else, another demo runs in it, or a step fails; the message names
    the step's log.
    """
    folder = folder.resolve()
    require_new_folder(folder, "--folder")
    with locked(folder):
        _prepare(folder)
        _run(folder, device, seed, size or Size())


def _run(folder: Path, device: str, seed: int, size: Size) -> None:
    raw, console = folder / RAW / DATASET, Console(highlight=False)
    with Steps(folder, _environment(folder), _work(size), console) as steps:
        with steps.step("make the phantom"):
            parts = {"labeled": size.labeled, "unlabeled": size.unlabeled, "test": size.test}
            write_phantom(raw, **parts, **PHANTOM, seed=seed)
        steps.command(
            "plan and preprocess the labeled cases",
            f"nnUNetv2_plan_and_preprocess -d {DATASET_ID} -c {CONFIGURATION} --verify_dataset_integrity "
            "-npfp 2 -np 2".split(),
        )
        with steps.step("make the plans small enough for a CPU"):
            _write_plans_and_split(folder / PREPROCESSED / DATASET)
        steps.command(
            "preprocess the unlabeled cases",
            f"nnunet_ssl preprocess -d {DATASET_ID} -c {CONFIGURATION} -p {PLANS} -np 2".split(),
        )
        _train(steps, device, seed, size)
        for name, (trainer, _) in TRAINERS.items():
            places = ["-i", str(raw / "imagesTs"), "-o", str(_predictions(folder, name))]
            options = f"-p {PLANS} -f {FOLD} -tr {trainer} --disable_tta -device {device} -npp 1 -nps 1"
            steps.command(
                f"predict with {name}",
                ["nnUNetv2_predict", "-d", DATASET_ID, "-c", CONFIGURATION, *places, *options.split()],
            )
        with steps.step("measure against the test labels"):
            metrics = {
                name: evaluate_folders(raw / "labelsTs", _predictions(folder, name), progress=None) for name in TRAINERS
            }
            write_json(metrics, folder / METRICS_FILE)
            (folder / TABLE_FILE).write_text(_markdown(metrics, size), encoding="utf-8")
        with steps.step("draw the picture"):
            _draw(folder, metrics, size)
    _print_table(console, metrics, size, folder)


def _work(size: Size) -> list[float]:
    """Seconds that each step takes on two cores."""
    training = size.epochs * size.iterations_per_epoch * ITERATION
    return [*BEFORE, *(BESIDE + training * (START + (1 - START) * later) for _, later in TRAINERS.values()), *AFTER]


def _train(steps: Steps, device: str, seed: int, size: Size) -> None:
    settings = {
        "num_epochs": size.epochs,
        "num_iterations_per_epoch": size.iterations_per_epoch,
        "num_val_iterations_per_epoch": 1,
        "initial_lr": 0.03,  # so few iterations at nnU-Net's 0.01 would stop halfway
        "seed": seed,
    }
    for name, (trainer, later) in TRAINERS.items():
        steps.command(
            f"train {name}",
            f"nnUNetv2_train {DATASET_ID} {CONFIGURATION} {FOLD} -p {PLANS} -tr {trainer} -device {device}".split(),
            {"nnUNet_ssl_config": json.dumps(settings)},
            look=lambda log, later=later: _training_progress(log, size.epochs, later),
        )


def _prepare(folder: Path) -> None:
    """Leaves ``folder`` as an empty demo folder; of an earlier demo only what the demo writes is removed."""
    if folder.exists() and any(folder.iterdir()) and not (folder / MARKER).is_file():
        raise InputError(f"{folder} is not empty and not a demo's folder: name another one with --folder.")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).write_text("Made by `nnunet_ssl demo`, which may replace what it wrote here.\n", encoding="utf-8")
    for name in (RAW, PREPROCESSED, RESULTS, LOGS, PREDICTIONS):
        if (folder / name).exists():
            shutil.rmtree(folder / name)
        (folder / name).mkdir()
    for name in (METRICS_FILE, TABLE_FILE, PICTURE_FILE):
        (folder / name).unlink(missing_ok=True)


def _environment(folder: Path) -> dict[str, str]:
    return os.environ | {
        **{variable: str(folder / variable) for variable in (RAW, PREPROCESSED, RESULTS)},
        "nnUNet_compile": "false",  # compiling would take longer than this training
        "nnUNet_n_proc_DA": "1",
        "nnUNet_def_n_proc": "1",  # starting eight processes takes longer than what they do here
        "OMP_NUM_THREADS": "1",  # beside the training, which takes all cores, more threads only wait for each other
        "OMP_WAIT_POLICY": "PASSIVE",  # else waiting threads spin, which on a busy machine slows training tenfold
        "PYTHONUNBUFFERED": "1",  # so that the log can be followed
    }


def _training_progress(log: str, epochs: int, later: float) -> tuple[float, str]:
    """The share of a training that is done, and what it does; from ``START`` on an epoch takes ``later`` times as long.

    What comes before the first epoch and the validation after the last one count as an epoch of the first kind each.
    """
    started = len(re.findall(r": Epoch \d+\s*$", log, re.MULTILINE))
    ended = len(re.findall(r"Epoch time: ", log))
    costs = [1.0 if epoch < START * epochs else later for epoch in range(epochs)]
    share = (bool(started) + sum(costs[:ended])) / (2 + sum(costs))
    if ended == epochs:
        return share, "validating"
    return share, f"epoch {started} of {epochs}" if started else "starting"


def _write_plans_and_split(preprocessed: Path) -> None:
    """Plans with a small network and patch for the data as preprocessed, and one fold with one validation case."""
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text(encoding="utf-8"))
    plans["plans_name"] = PLANS
    configuration = plans["configurations"][CONFIGURATION]
    plans["configurations"] = {CONFIGURATION: configuration}
    configuration |= {"patch_size": list(PHANTOM["shape"][1:]), "batch_size": 4, "batch_dice": True}
    features = [8, 16, 32, 64]
    stages = len(features)
    configuration["architecture"]["arch_kwargs"] |= {
        "n_stages": stages,
        "features_per_stage": features,
        "kernel_sizes": [[3, 3]] * stages,
        "strides": [[1, 1]] + [[2, 2]] * (stages - 1),
        "n_conv_per_stage": [2] * stages,
        "n_conv_per_stage_decoder": [2] * (stages - 1),
    }
    write_json(plans, preprocessed / f"{PLANS}.json")
    cases = sorted(f.name.removesuffix(".nii.gz") for f in (preprocessed / "gt_segmentations").glob("*.nii.gz"))
    write_json([{"train": cases[:-1], "val": cases[-1:]}], preprocessed / "splits_final.json")


def _predictions(folder: Path, name: str) -> Path:
    return folder / PREDICTIONS / name.lower().replace(" ", "_")


def _draw(folder: Path, metrics: dict[str, dict], size: Size) -> None:
    raw = folder / RAW / DATASET
    classes, _ = read_labels(json.loads((raw / "dataset.json").read_text(encoding="utf-8")), raw / "dataset.json")
    dice = {name: result["metrics"]["dice"]["per_case"] for name, result in metrics.items()}
    rows = [
        Row(
            f"{case}\n{place}",
            _slice(raw / "imagesTs" / f"{case}_0000.nii.gz"),
            _slice(raw / "labelsTs" / f"{case}.nii.gz"),
            {name: _slice(_predictions(folder, name) / f"{case}.nii.gz") for name in TRAINERS},
            {name: dice[name][case] for name in TRAINERS},
        )
        for place, case in _typical(*dice.values()).items()
    ]
    comparison_picture(folder / PICTURE_FILE, rows, classes, f"{size.text}. Numbers: Dice")


def _typical(baseline: dict[str, dict], method: dict[str, dict]) -> dict[str, str]:
    """Cases by the place of their gain, of the Dice per case and class (None where the case lacks the class)."""
    gains = {
        case: {name: value - baseline[case][name] for name, value in dice.items() if value is not None}
        for case, dice in method.items()
    }
    places = {"best": "largest gain", "median": "median gain", "worst": "smallest gain"}
    return {places[what]: case for what, case in chosen_cases(gains).items()}


def _slice(file: Path) -> np.ndarray:
    """The only one of a case, (y, x)."""
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))[0]


def _table_rows(metrics: dict[str, dict]) -> tuple[list[str], list[list[str]]]:
    """Title and cells of the result: per class and in the mean, Dice and HD95 of each method."""
    measures = (("Dice", "dice", ".3f"), ("HD95 mm", "hd95_mm", ".1f"))
    titles = ["class", *(f"{title} {name}" for title, *_ in measures for name in metrics)]

    def cells(label: str, pick: Callable[[dict], float | None]) -> list[str]:
        values = [(pick(metrics[name]["metrics"][m]), form) for _, m, form in measures for name in metrics]
        return [label, *("-" if value is None else f"{value:{form}}" for value, form in values)]

    classes = next(iter(metrics.values()))["absent"]
    rows = [cells(c, lambda m, c=c: m["per_class"][c]) for c in classes]
    return titles, [*rows, cells("mean", lambda m: m["mean"])]


def _missed(metrics: dict[str, dict]) -> str:
    """Says which mean distances leave out cases; empty if none does."""
    counts = [
        f"{name} {count} x {organ}"
        for name, result in metrics.items()
        for organ, count in result["missed"].items()
        if count
    ]
    return f"Not found at all (Dice 0, left out of HD95): {', '.join(counts)}." if counts else ""


def _markdown(metrics: dict[str, dict], size: Size) -> str:
    titles, rows = _table_rows(metrics)
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)], *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    closing = f"{_missed(metrics)} {CAUTION}".strip()
    return f"{size.text}.\n\n{table}\n\n{closing}\n"


def _print_table(console: Console, metrics: dict[str, dict], size: Size, folder: Path) -> None:
    titles, rows = _table_rows(metrics)
    table = Table(title=f"{size.test} test cases; {size.text}", title_justify="left")
    for i, title in enumerate(titles):
        table.add_column(title, justify="right" if i else "left")
    for row in rows[:-1]:
        table.add_row(*row)
    table.add_section()
    table.add_row(*rows[-1])
    console.print(table)
    console.print(f"{_missed(metrics)} {CAUTION}".strip())
    for name in (TABLE_FILE, METRICS_FILE, PICTURE_FILE):
        print(folder / name)
