"""Accuracy of the methods on test cases between nnU-Net with the same few labels and nnU-Net with all labels.

    python benchmarks/accuracy.py --suite la-mini --methods CPS UAMT --labeled 4 8 --seeds 0 1 2

Everything goes through the commands that users have: convert, plan, preprocess, `nnunet_ssl run`, predict, evaluate.
The same command goes on where it was cut off, repeats nothing that is finished, and can run several times at once in
one folder. Each run leaves a JSON in `benchmarks/results/`; a run whose JSON is there is skipped.

All rows of a suite share one dataset, network, batch and number of iterations. Its folds hide labels: one fold for each
labeled number, the last with all labels. nnU-Net's plans are therefore made with all training images, which matter for
shape and spacing only as the images are z-scored one by one; no loader opens a label that its fold hides. The test
cases stand in imagesTs, which no training reads, and it is always the final checkpoint that predicts them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from postprocessing import write_rule
from records import commit, make_table, read_measures, read_training, versions
from rich.console import Console
from steps import locked, run_command
from suites import SUITES, Suite, edit_plans, fold_of, make_folds

from nnunet_ssl.demo.phantom import write_phantom
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import write_json
from nnunet_ssl.report.comparison import make_sections
from nnunet_ssl.report.records import ALL, SUPERVISED, read_record
from nnunet_ssl.runner.local import interrupted_by_signals
from nnunet_ssl.runner.plan import BASELINE, Experiment, Run, overrides_by_method
from nnunet_ssl.settings import VARIABLE, parse_overrides

HERE = Path(__file__).resolve().parent
SHARED_DATA = HERE.parent.parent / "shared" / "data"
DATASET_ID, NAME, PLANS = 1, "Benchmark", "nnUNetPlans_bench"
DATASET = f"Dataset{DATASET_ID:03d}_{NAME}"
PROCESSES = str(min(8, os.cpu_count() or 1))
PRESETS = ("default", "published")


@dataclass(frozen=True)
class Row:
    """One training. `tag` tells runs of other overrides apart: the preset, or a name for what else is changed."""

    method: str
    labeled: int | str
    seed: int
    iterations: int
    preset: str
    name: str | None
    tag: str
    overrides: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.labeled}_{shown(self.method)}_{self.tag}_{self.iterations}_seed{self.seed}"


@dataclass(frozen=True)
class Workspace:
    """The folder of a suite: nnU-Net's three folders, predictions, logs and locks."""

    suite: Suite
    root: Path
    device: str

    @property
    def raw(self) -> Path:
        return self.root / "nnUNet_raw" / DATASET

    @property
    def preprocessed(self) -> Path:
        return self.root / "nnUNet_preprocessed" / DATASET

    def results(self, row: Row) -> Path:
        """`nnUNet_results`, one for each set of overrides, as `nnunet_ssl run` refuses to mix them."""
        return self.root / "nnUNet_results" / f"{row.tag}_{row.iterations}"

    def fold(self, row: Row) -> Path:
        """Where nnU-Net trains a row."""
        experiment, run = self._experiment(row)
        return experiment.folder(run)

    def root_of(self, row: Row) -> Path:
        """The `nnUNet_results` that nnU-Net itself sees for a row."""
        experiment, run = self._experiment(row)
        return experiment.root(run)

    def _experiment(self, row: Row) -> tuple[Experiment, Run]:
        experiment = Experiment(
            *(DATASET_ID, DATASET, self.suite.configuration, PLANS, self.device, self.results(row)),
            overrides={},
            program="",
        )
        return experiment, Run(row.method, fold_of(self.suite, row.labeled), row.seed)

    def run(self, title: str, command: Sequence[str], log: str, results: Path | None = None) -> None:
        """Runs a command with nnU-Net's folders set to this workspace."""
        folders = {name: str(self.root / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
        environment = {"nnUNet_n_proc_DA": "1"} if self.device == "cpu" else {}
        environment |= {name: value for name, value in os.environ.items() if name != VARIABLE} | folders
        if results:
            environment["nnUNet_results"] = str(results)
        if self.device == "cpu":
            # Compiling takes longer than it saves here, and threads that spin while they wait slow a busy machine.
            environment |= {"nnUNet_compile": "false", "OMP_WAIT_POLICY": "PASSIVE"}
        run_command(title, command, environment, self.root / "logs" / f"{log}.log")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", required=True, choices=list(SUITES))
    parser.add_argument("--source", type=Path, help="the data set as downloaded; default: ../shared/data beside here")
    parser.add_argument("--work", type=Path, default=HERE / "work", help="the suites' folders are made in it")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder for the JSON files")
    parser.add_argument("--methods", nargs="+", default=[], help="such as CPS UAMT; none: the bounds alone")
    parser.add_argument("--labeled", nargs="+", type=int, help="default: the suite's smallest number")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--preset", default="default", choices=PRESETS)
    parser.add_argument("--config", default="", help="further overrides: a YAML file, or {weight: 1.0}")
    parser.add_argument("--iterations", type=int, help="default: the suite's")
    parser.add_argument("--name", help="of what --config or a change of the code makes of the methods")
    asked = parser.parse_args()
    try:
        with interrupted_by_signals():
            run_suite(SUITES[asked.suite], asked)
    except InputError as error:
        print(f"accuracy: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("accuracy: interrupted; the same command goes on.", file=sys.stderr)
        sys.exit(130)


def run_suite(suite: Suite, asked: argparse.Namespace) -> None:
    """Makes what is missing of the rows that were asked for and prints their table."""
    rows = make_rows(suite, asked)
    workspace = Workspace(suite, asked.work.resolve() / suite.name, asked.device)
    if missing := [row for row in rows if recorded(row, suite, asked.out) is None]:
        prepare(workspace, asked.source)
    for row in missing:
        with locked(workspace.root / "locks" / f"{row}.lock"):
            if recorded(row, suite, asked.out) is None:  # another process may have made it meanwhile
                write_json(measure(workspace, row), record_file(row, suite, asked.out))
    console = Console(highlight=False)
    console.width = max(console.width, 100)  # in a log, too, no cell is cut
    [section] = make_sections([read_record(record_file(row, suite, asked.out)) for row in rows])
    console.print(make_table(section))


def make_rows(suite: Suite, asked: argparse.Namespace) -> list[Row]:
    """The trainings that were asked for, with both bounds, seed by seed.

    Raises:
        InputError: a number that the suite does not have, or overrides that the trainers do not take.
    """
    labeled = sorted(set(asked.labeled or suite.labeled[:1]))
    if wrong := [number for number in labeled if number not in suite.labeled]:
        raise InputError(f"--labeled {wrong[0]}: {suite.name} has {', '.join(map(str, suite.labeled))}.")
    if asked.name is not None and (asked.name in PRESETS or not re.fullmatch(r"[A-Za-z0-9.-]+", asked.name)):
        raise InputError(f"--name {asked.name}: use letters, digits, '.' and '-', and not the name of a preset.")
    iterations = asked.iterations or suite.iterations
    own, _ = parse_overrides(asked.config)
    fixed = length(suite, iterations) | ({} if asked.preset == "default" else {"preset": asked.preset})
    if both := [key for key in own if key in {*fixed, "preset", "seed"}]:
        raise InputError(f"--config sets {both[0]}, which --iterations, --preset and --seeds decide: leave it out.")
    methods = [BASELINE, *(method for method in dict.fromkeys(asked.methods) if method != BASELINE)]
    overrides = overrides_by_method(methods, json.dumps(fixed | own))
    rows = []
    for seed in dict.fromkeys(asked.seeds):
        wanted = [(method, number) for number in labeled for method in methods]
        for method, number in [*wanted, (BASELINE, ALL)]:
            changed = {key: overrides[method][key] for key in own if key in overrides[method]}
            preset = "default" if method == BASELINE else asked.preset
            # The baseline has no preset and few settings: it is the same row for most of what is asked for methods.
            name = None if method == BASELINE and not changed else asked.name
            digest = hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:6]
            tag = name or (f"{preset}-{digest}" if changed else preset)
            rows.append(Row(method, number, seed, iterations, preset, name, tag, overrides[method]))
    return rows


def length(suite: Suite, iterations: int) -> dict[str, int]:
    """The overrides for a number of iterations. Raises InputError if it is not a number of whole epochs."""
    per_epoch = min(iterations, suite.iterations_per_epoch)
    if iterations < 1 or iterations % per_epoch:
        raise InputError(f"--iterations {iterations}: give a multiple of {suite.iterations_per_epoch}.")
    return {
        "num_epochs": iterations // per_epoch,
        "num_iterations_per_epoch": per_epoch,
        "num_val_iterations_per_epoch": 2,
        "save_every": 5,  # what is lost when a training is cut off
    }


def shown(method: str) -> str:
    """The method's name in records: the baseline's is in lower case."""
    return SUPERVISED if method == BASELINE else method


def record_file(row: Row, suite: Suite, out: Path) -> Path:
    """The JSON of a row."""
    return out / f"{suite.name}_{row}.json"


def recorded(row: Row, suite: Suite, out: Path) -> dict[str, Any] | None:
    """The record of a row, None if it has none.

    Raises:
        InputError: it was made with other overrides or another definition of the suite.
    """
    file = record_file(row, suite, out)
    if not file.is_file():
        return None
    record = json.loads(file.read_text(encoding="utf-8"))
    before, now = record["definition"] | record["overrides"], definition(suite) | row.overrides
    if changed := sorted(key for key in {*before, *now} if before.get(key) != now.get(key)):
        what = ", ".join(f"{key} {before.get(key)}, not {now.get(key)}" for key in changed)
        raise InputError(f"{file} was made with {what}: remove it, or give the new runs another --name or --out.")
    return record


def definition(suite: Suite) -> dict[str, Any]:
    """What every record of a suite rests on, as JSON gives it back: not which numbers there are, and the length."""
    others = ("labeled", "iterations", "iterations_per_epoch")
    return json.loads(json.dumps({key: value for key, value in asdict(suite).items() if key not in others}))


def prepare(workspace: Workspace, source: Path | None) -> None:
    """Converts, plans and preprocesses the suite's dataset and writes its folds, unless all of it is there.

    Raises:
        InputError: a step fails, or the folder holds another definition of the suite or another source.
    """
    suite, marker = workspace.suite, workspace.root / "suite.json"
    if source and suite.data == "phantom":
        raise InputError(f"--source: {suite.name} makes its own data.")
    source = source or SHARED_DATA / suite.data
    content = {"definition": definition(suite), "labeled": [*suite.labeled], "source": str(source.resolve())}
    with locked(workspace.root / "locks" / "preparation.lock"):
        if marker.is_file():
            if json.loads(marker.read_text(encoding="utf-8")) != content:
                raise InputError(f"{marker} tells of another {suite.name} or source: name another --work.")
            return
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            (workspace.root / name).mkdir(exist_ok=True)
        if not workspace.raw.is_dir():
            make_raw(workspace, source)
        dataset = ["-d", str(DATASET_ID)]
        workspace.run("fingerprint", ["nnUNetv2_extract_fingerprint", *dataset, "-np", PROCESSES], "fingerprint")
        spacing = ["-overwrite_target_spacing", *map(str, suite.spacing)] if suite.spacing else []
        workspace.run("plans", ["nnUNetv2_plan_experiment", *dataset, *spacing], "plans")
        plans = json.loads((workspace.preprocessed / "nnUNetPlans.json").read_text(encoding="utf-8"))
        write_json(edit_plans(plans, suite, PLANS), workspace.preprocessed / f"{PLANS}.json")
        write_json(make_folds(suite, training_cases(workspace)), workspace.preprocessed / "splits_final.json")
        workspace.run(
            "preprocessing",
            ["nnUNetv2_preprocess", *dataset, "-plans_name", PLANS, "-c", suite.configuration, "-np", PROCESSES],
            "preprocessing",
        )
        write_json(content, marker)


def make_raw(workspace: Workspace, source: Path) -> None:
    """The raw dataset: all training cases labeled, and the test cases."""
    suite = workspace.suite
    if suite.data == "phantom":
        write_phantom(workspace.raw, labeled=suite.units, unlabeled=0, test=suite.test, **dict(suite.phantom))
        return
    workspace.run(
        f"conversion of {suite.data}",
        [*("nnunet_ssl", "convert", suite.data, str(source.resolve()), "--dataset-id", str(DATASET_ID)),
         *("--name", NAME, "--labeled", "100%", "-np", PROCESSES)],
        "conversion",
    )  # fmt: skip


def training_cases(workspace: Workspace) -> list[str]:
    """All training cases in the order of the protocol; a phantom's in the order of their numbers.

    Raises:
        InputError: their number is not the suite's.
    """
    suite = workspace.suite
    if suite.data == "phantom":
        cases = sorted(file.name.removesuffix(".nii.gz") for file in (workspace.raw / "labelsTr").glob("*.nii.gz"))
    else:
        cases = json.loads((workspace.raw / "conversion.json").read_text(encoding="utf-8"))["labeled"]
    if len(cases) != suite.units * suite.cases_per_unit:
        raise InputError(f"{workspace.raw} has {len(cases)} training cases: {suite.name} is for {suite.units} units.")
    return cases


def measure(workspace: Workspace, row: Row) -> dict[str, Any]:
    """Trains, predicts the test cases, evaluates, and returns the record."""
    suite, fold = workspace.suite, fold_of(workspace.suite, row.labeled)
    state = commit()
    model = ["-d", str(DATASET_ID), "-c", suite.configuration, "-p", PLANS]
    workspace.run(
        f"{row}: training",
        [*("nnunet_ssl", "run", *model, "--methods", row.method, "--folds", str(fold), "--seeds", str(row.seed)),
         *("--device", workspace.device, "--config", json.dumps(row.overrides))],
        str(row), workspace.results(row),
    )  # fmt: skip
    predictions = workspace.root / "predictions" / str(row)
    if not predictions.is_dir():
        partial = predictions.with_name(f"{row}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        workspace.run(
            f"{row}: prediction",
            [*("nnUNetv2_predict", *model, "-tr", f"nnUNetTrainer{row.method}", "-f", str(fold), "--disable_tta"),
             *("-i", str(workspace.raw / "imagesTs"), "-o", str(partial), "-device", workspace.device),
             *("-npp", "1", "-nps", "1")],
            str(row), workspace.root_of(row),
        )  # fmt: skip
        partial.rename(predictions)
    metrics = evaluate(workspace, row, predictions)
    curve, seconds, peak = read_training(workspace.fold(row))
    return {
        "suite": suite.name,
        "method": shown(row.method),
        "preset": row.preset,
        "labeled": row.labeled,
        "seed": row.seed,
        "device": workspace.device,
        "iterations": row.iterations,
        "wall_seconds": seconds,
        "peak_memory_mb": peak,
        "commit": state,
        "versions": versions(),
        "command": command_of(row, workspace),
        "overrides": row.overrides,
        "name": row.name,
        "definition": definition(suite),
        "metrics": metrics,
        "largest_component": postprocess(workspace, row, predictions),
        "learning_curve": curve,
    }


def evaluate(workspace: Workspace, row: Row, predictions: Path) -> dict[str, Any]:
    """The measures of a folder of predictions."""
    metrics = predictions / "metrics.json"
    if not metrics.is_file():
        workspace.run(
            f"{row}: evaluation",
            ["nnunet_ssl", "evaluate", str(workspace.raw / "labelsTs"), str(predictions), "-np", PROCESSES],
            str(row),
        )
    return read_measures(json.loads(metrics.read_text(encoding="utf-8")))


def postprocess(workspace: Workspace, row: Row, predictions: Path) -> dict[str, Any]:
    """The structures (as labels) that nnU-Net's postprocessing cuts to their largest component, and the measures."""
    folds = json.loads((workspace.preprocessed / "splits_final.json").read_text(encoding="utf-8"))
    cases, out = folds[fold_of(workspace.suite, row.labeled)]["train"], predictions / "largest_component"
    rule = predictions / "postprocessing.pkl"
    structures = write_rule(rule, predictions, workspace.raw / "labelsTr", cases)
    workspace.run(
        f"{row}: largest component",
        [*("nnUNetv2_apply_postprocessing", "-i", str(predictions), "-o", str(out), "-pp_pkl_file", str(rule)),
         *("-np", PROCESSES)],
        str(row),
    )  # fmt: skip
    return {"structures": structures, "metrics": evaluate(workspace, row, out)}


def command_of(row: Row, workspace: Workspace) -> str:
    """The line that makes this row and its bounds, without the folders of this machine."""
    fixed = {*length(workspace.suite, row.iterations), "preset"}
    own = {key: value for key, value in row.overrides.items() if key not in fixed}
    words = ["python", "benchmarks/accuracy.py", "--suite", workspace.suite.name, "--seeds", str(row.seed)]
    words += [] if row.method == BASELINE else ["--methods", row.method]
    words += [] if row.labeled == ALL else ["--labeled", str(row.labeled)]
    words += ["--device", workspace.device, "--preset", row.preset, "--iterations", str(row.iterations)]
    words += ["--config", json.dumps(own)] if own else []
    words += ["--name", row.name] if row.name else []
    return shlex.join(words)


if __name__ == "__main__":
    main()
