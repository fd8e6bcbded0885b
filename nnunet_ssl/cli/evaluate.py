"""``nnunet_ssl evaluate``: Dice, Jaccard, HD95 and ASD of a folder of predictions."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nnunet_ssl.cli.options import Processes

if TYPE_CHECKING:
    from rich.console import Console


def evaluate(
    reference: Annotated[Path, typer.Argument(metavar="REFERENCE_FOLDER", help="Reference segmentations.")],
    prediction: Annotated[Path, typer.Argument(metavar="PREDICTION_FOLDER", help="Predictions of the same names.")],
    dataset_json: Annotated[
        Path | None,
        typer.Option(
            "--dataset-json",
            "-djfile",
            help="Names the classes. Default: the one in PREDICTION_FOLDER, else beside REFERENCE_FOLDER.",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Default: metrics.json in PREDICTION_FOLDER.")
    ] = None,
    calibration: Annotated[
        bool,
        typer.Option(
            "--calibration",
            help="Also whether nnU-Net's saved probabilities (CASE.npz) can be believed: ECE, Brier score, negative "
            "log-likelihood, and reliability.png beside the JSON.",
        ),
    ] = False,
    processes: Processes = None,
) -> None:
    """Dice, Jaccard, HD95 and ASD per case and class, as JSON and as a table; and cases that the model has learned."""
    from rich.console import Console

    from nnunet_ssl.data.space import in_words
    from nnunet_ssl.files import write_json
    from nnunet_ssl.machine import processes as default_processes
    from nnunet_ssl.results.evaluation import evaluate_folders
    from nnunet_ssl.results.seen import seen_cases, seen_in_words

    processes = processes or default_processes()
    result = evaluate_folders(reference, prediction, dataset_json, processes)
    result["seen"] = seen_cases(prediction, list(result["metrics"]["dice"]["per_case"]))
    output = output or prediction / "metrics.json"
    if calibration:
        from nnunet_ssl.results.calibration import calibrate_folders
        from nnunet_ssl.results.reliability_diagram import draw_reliability

        result["calibration"] = calibrate_folders(reference, prediction, dataset_json, processes)
        draw_reliability(output.parent / "reliability.png", result["calibration"], str(prediction))
    write_json(result, output)

    console = Console()
    _print_measures(console, result)
    for line in (*in_words(result["space"], "the prediction", "the reference"), *seen_in_words(result["seen"])):
        print(line)
    if calibration:
        _print_calibration(console, result["calibration"])
        print(f"Reliability diagram: {output.parent / 'reliability.png'}")
    print(f"Every case's values: {output}")


def _print_measures(console: "Console", result: dict[str, Any]) -> None:
    from rich.box import SIMPLE
    from rich.markup import escape
    from rich.table import Table

    from nnunet_ssl.results.evaluation import METRICS

    metrics, absent, missed = result["metrics"], result["absent"], result["missed"]
    cases = len(metrics["dice"]["per_case"])
    titles = ("Dice", "Jaccard", "HD95 mm", "ASD mm", "HD95 voxel", "ASD voxel")
    table = Table(
        title=f"Means over {cases} cases",
        caption="last row: mean of the classes above",
        box=SIMPLE,
        padding=(0, 1, 0, 0),
    )
    table.add_column("class", overflow="fold")  # a long name goes on in a second line and is not cut
    for title in (*titles, "absent", "missed"):
        table.add_column(title, justify="right", min_width=max(map(len, title.split())))

    def cells(values: list[float | None]) -> list[str]:
        return [
            "-" if v is None else f"{v:.4f}" if m in ("dice", "jaccard") else f"{v:.2f}"
            for m, v in zip(METRICS, values, strict=True)
        ]

    for name in absent:
        values = cells([metrics[m]["per_class"][name] for m in METRICS])
        table.add_row(escape(name), *values, str(len(absent[name])), str(missed[name]))
    table.add_section()
    table.add_row("mean", *cells([metrics[m]["mean"] for m in METRICS]), "", "")
    console.print(table)
    if any(absent.values()):
        console.print("absent: cases whose reference lacks the class; they are left out of its means.")
    if unknown := {name: cases for name, cases in result["not_annotated"].items() if cases}:
        counts = ", ".join(f"{escape(name)} in {len(cases)}" for name, cases in unknown.items())
        console.print(f"not annotated, as dataset.json says: {counts} case(s); they are left out of its means.")
    if any(missed.values()):
        console.print("missed: cases whose prediction lacks the class: Dice 0, left out of the mean distances.")
    if spurious := {name: cases for name, cases in result["spurious"].items() if cases}:
        counts = ", ".join(f"{escape(name)} in {len(cases)}" for name, cases in spurious.items())
        console.print(f"found where the reference has none: {counts} case(s); no value tells of it.")


def _print_calibration(console: "Console", calibration: dict[str, Any]) -> None:
    from rich.box import SIMPLE
    from rich.markup import escape
    from rich.table import Table

    sets = [calibration["all"], calibration["foreground"]]
    of = "regions" if calibration["regions"] else "classes"
    table = Table(
        title="Calibration, over all voxels and around the foreground",
        caption=f"last row: over {of}; fore: in the box around the reference's foreground",
        box=SIMPLE,
        padding=(0, 1, 0, 0),
    )
    table.add_column("class", overflow="fold")
    for title in ("ECE all", "Brier all", "NLL all", "ECE fore", "Brier fore", "NLL fore"):
        table.add_column(title, justify="right", min_width=max(map(len, title.split())))

    def cells(figures: list[dict[str, Any]]) -> list[str]:
        values = [each[figure] for each in figures for figure in ("ece", "brier", "nll")]
        return ["-" if value is None else f"{value:.4f}" for value in values]

    for name in sets[0]["per_class"]:
        table.add_row(escape(name), *cells([each["per_class"][name] for each in sets]))
    table.add_section()
    table.add_row(of, *cells(sets))
    console.print(table)
