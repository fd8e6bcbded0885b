"""Accuracy of the methods on test cases between nnU-Net with the same few labels and nnU-Net with all labels.

    python benchmarks/accuracy.py --suite la-mini --methods BCP CutMix --labeled 4 8 --seeds 0 1 2

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
import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from half_pool import store_half
from partly_annotated import add_partial, link_naive
from postprocessing import write_rule
from records import commit, make_table, read_measures, versions
from rich.console import Console
from rows import HALF, NAIVE, PRESETS, Row, definition, length, make_rows, record_file, recorded, shown
from steps import digest_of, run_command
from suites import DRAWN, SUITES, Suite, edit_plans, fold_of, make_folds
from two_slices import add_sliced

from nnunet_ssl.data.origin import read_origin
from nnunet_ssl.data.raw import listed
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import read_json, write_json
from nnunet_ssl.locks import locked
from nnunet_ssl.report.comparison import make_sections
from nnunet_ssl.report.records import ALL, read_record
from nnunet_ssl.results.training_log import read_training
from nnunet_ssl.runner.local import interrupted_by_signals
from nnunet_ssl.runner.plan import BASELINE, Experiment, Run
from nnunet_ssl.training.settings import VARIABLE

HERE = Path(__file__).resolve().parent
SHARED_DATA = HERE.parent.parent / "shared" / "data"
DATASET_ID, NAME, PLANS = 1, "Benchmark", "nnUNetPlans_bench"
DATASET = f"Dataset{DATASET_ID:03d}_{NAME}"
MARK = "checkpoint.json"  # in a folder of predictions: what made them
PROCESSES = str(min(16, os.cpu_count() or 1))


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

    @property
    def naive(self) -> Path:
        """The preprocessed data for those who take what was not annotated for background."""
        return self.root / "nnUNet_preprocessed_naive" / DATASET

    def half(self, row: Row) -> Path:
        """The preprocessed data whose images are float16 where the row has no labels."""
        return self.root / f"nnUNet_preprocessed_half_{row.labeled}" / DATASET

    def data_of(self, row: Row) -> Path:
        """The preprocessed data that a row learns from."""
        return {NAIVE: self.naive, HALF: self.half(row)}.get(row.name or "", self.preprocessed)

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

    def run(
        self, title: str, command: Sequence[str], log: str, results: Path | None = None, data: Path | None = None
    ) -> None:
        """Runs a command with nnU-Net's folders set to this workspace, or two of them to a row's own."""
        folders = {name: str(self.root / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
        environment = {"nnUNet_n_proc_DA": "1"} if self.device == "cpu" else {}
        environment |= {name: value for name, value in os.environ.items() if name != VARIABLE} | folders
        if results:
            environment["nnUNet_results"] = str(results)
        if data:
            environment["nnUNet_preprocessed"] = str(data.parent)
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
    parser.add_argument("--methods", nargs="+", default=[], help="such as BCP CutMix; none: the bounds alone")
    parser.add_argument("--labeled", nargs="+", type=int, help="default: the suite's smallest number")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--preset", default="default", choices=PRESETS)
    parser.add_argument("--config", default="", help="further overrides: a YAML file, or {weight: 1.0}")
    parser.add_argument("--iterations", type=int, help="default: the suite's")
    parser.add_argument("--half", action="store_true", help="the methods' unlabeled images are stored as float16")
    parser.add_argument("--name", help="of what --config or a change of the code makes of the methods")
    asked = parser.parse_args()
    with told_in_a_line("accuracy"):
        run_suite(SUITES[asked.suite], asked)


@contextmanager
def told_in_a_line(program: str) -> Iterator[None]:
    """Within the context a benchmark runs that goes on where it was cut off; faults and signals end it with a line."""
    try:
        with interrupted_by_signals():
            yield
    except InputError as error:
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"{program}: interrupted; the same command goes on.", file=sys.stderr)
        sys.exit(130)


def run_suite(suite: Suite, asked: argparse.Namespace) -> None:
    """Makes what is missing of the rows that were asked for and prints their table."""
    rows = make_rows(suite, asked)
    workspace = Workspace(suite, asked.work.resolve() / suite.name, asked.device)
    if missing := [row for row in rows if recorded(row, suite, asked.out) is None]:
        prepare(workspace, asked.source)
    if suite.sliced and any(row.method == "DeSCO" for row in missing):
        propagate(workspace)
    for row in missing:
        with locked(workspace.root / "locks" / str(row), wait=True):
            if recorded(row, suite, asked.out) is None:  # another process may have made it meanwhile
                write_json(measure(workspace, row), record_file(row, suite, asked.out))
    console = Console(highlight=False)
    console.width = max(console.width, 100)  # in a log, too, no cell is cut
    [section] = make_sections([read_record(record_file(row, suite, asked.out)) for row in rows])
    console.print(make_table(section))


def prepare(workspace: Workspace, source: Path | None) -> None:
    """Converts, plans and preprocesses the suite's dataset and writes its folds, unless all of it is there.

    Raises:
        InputError: a step fails, or the folder holds another definition of the suite or another source.
    """
    suite, marker = workspace.suite, workspace.root / "suite.json"
    if source and suite.data in DRAWN:
        raise InputError(f"--source: {suite.name} makes its own data.")
    source = source or SHARED_DATA / suite.data
    content = {"definition": definition(suite), "labeled": [*suite.labeled], "source": str(source.resolve())}
    with locked(workspace.root / "locks" / "preparation", wait=True):
        if marker.is_file():
            if json.loads(marker.read_text(encoding="utf-8")) != content:
                raise InputError(f"{marker} tells of another {suite.name} or source: name another --work.")
            return
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            (workspace.root / name).mkdir(exist_ok=True)
        if not workspace.raw.is_dir():
            make_raw(workspace, source)
        if suite.sliced:
            add_sliced(workspace.raw, training_cases(workspace)[: suite.sliced], suite.spacing)
        if suite.partial:
            copied = training_cases(workspace)[: suite.partial * suite.cases_per_unit]
            add_partial(workspace.raw, copied, suite.cases_per_unit)
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
        if suite.partial:
            link_naive(workspace.preprocessed, workspace.naive)
        write_json(content, marker)


def propagate(workspace: Workspace) -> None:
    """Carries the labels of slices through their scans; what is finished is kept."""
    with locked(workspace.root / "locks" / "preparation", wait=True):
        workspace.run(
            "propagation of the slices",
            [*("nnunet_ssl", "propagate", "-d", str(DATASET_ID), "-c", workspace.suite.configuration, "-p", PLANS),
             *("-np", PROCESSES)],
            "propagation",
        )  # fmt: skip


def make_raw(workspace: Workspace, source: Path) -> None:
    """The raw dataset: all training cases labeled, and the test cases."""
    suite = workspace.suite
    if suite.data in DRAWN:
        DRAWN[suite.data](workspace.raw, labeled=suite.units, test=suite.test, **dict(suite.phantom))
        return
    workspace.run(
        f"conversion of {suite.data}",
        [*("nnunet_ssl", "convert", suite.data, str(source.resolve()), "--dataset-id", str(DATASET_ID)),
         *("--name", NAME, "--labeled", "100%", "-np", PROCESSES)],
        "conversion",
    )  # fmt: skip


def training_cases(workspace: Workspace) -> list[str]:
    """All training cases in the order of the protocol; drawn ones in the order of their numbers.

    Raises:
        InputError: their number is not the suite's.
    """
    suite = workspace.suite
    if suite.data in DRAWN:
        labeled = {file.name.removesuffix(".nii.gz") for file in (workspace.raw / "labelsTr").glob("*.nii.gz")}
        cases = sorted(labeled - {suite.copy_name(case) for case in labeled})
    else:
        cases = json.loads((workspace.raw / "conversion.json").read_text(encoding="utf-8"))["labeled"]
    if len(cases) != suite.units * suite.cases_per_unit:
        raise InputError(f"{workspace.raw} has {len(cases)} training cases: {suite.name} is for {suite.units} units.")
    return cases


def measure(workspace: Workspace, row: Row) -> dict[str, Any]:
    """Trains, predicts the test cases, evaluates, and returns the record."""
    suite, state = workspace.suite, commit()
    if row.name == HALF:
        store_half(workspace.preprocessed, workspace.half(row), cases_of(workspace, row)["unlabeled"])
    workspace.run(
        f"{row}: training",
        [*("nnunet_ssl", "run", "-d", str(DATASET_ID), "-c", suite.configuration, "-p", PLANS, "--methods", row.method),
         *("--folds", str(fold_of(suite, row.labeled)), "--seeds", str(row.seed)),
         *("--device", workspace.device, "--config", json.dumps(row.overrides))],
        str(row), workspace.results(row), workspace.data_of(row),
    )  # fmt: skip
    origin = read_origin(workspace.fold(row))  # the row's, else nnunet_ssl run had refused it
    predictions = predict(workspace, row)
    metrics = evaluate(workspace, row, predictions)
    if seen := sorted({*metrics["dice"]["per_case"]} & {*origin.learned}):
        raise InputError(f"{row}: {workspace.fold(row)} has learned the test cases {listed(seen, separator=', ')}.")
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
        "origin": origin.facts(),
        "metrics": metrics,
        "largest_component": postprocess(workspace, row, predictions),
        "learning_curve": curve,
    }


def cases_of(workspace: Workspace, row: Row) -> dict[str, list[str]]:
    """The fold of a row."""
    folds = read_json(workspace.preprocessed / "splits_final.json", "prepare the suite again")
    return folds[fold_of(workspace.suite, row.labeled)]


def predict(workspace: Workspace, row: Row) -> Path:
    """The folder of a row's predictions of the test cases; those of another checkpoint are made again."""
    predictions = workspace.root / "predictions" / str(row)
    mark = {"checkpoint": digest_of(workspace.fold(row) / "checkpoint_final.pth")}
    if (predictions / MARK).is_file() and read_json(predictions / MARK, f"remove {predictions}") == mark:
        return predictions
    partial = predictions.with_name(f"{row}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    workspace.run(
        f"{row}: prediction",
        [*("nnUNetv2_predict", "-d", str(DATASET_ID), "-c", workspace.suite.configuration, "-p", PLANS),
         *("-tr", f"nnUNetTrainer{row.method}", "-f", str(fold_of(workspace.suite, row.labeled)), "--disable_tta"),
         *("-i", str(workspace.raw / "imagesTs"), "-o", str(partial), "-device", workspace.device),
         *("-npp", "1", "-nps", "1")],
        str(row), workspace.root_of(row),
    )  # fmt: skip
    write_json(mark, partial / MARK)
    shutil.rmtree(predictions, ignore_errors=True)
    partial.rename(predictions)
    return predictions


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
    cases, out = cases_of(workspace, row)["train"], predictions / "largest_component"
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
    words += ["--half"] if row.name == HALF else ["--name", row.name] if row.name not in (None, NAIVE) else []
    return shlex.join(words)


if __name__ == "__main__":
    main()
