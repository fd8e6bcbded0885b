"""The verb ``nnunet_ssl compare``."""

from pathlib import Path
from typing import Annotated

import typer

from nnunet_ssl.cli.options import Processes


def compare(
    reference: Annotated[Path, typer.Argument(metavar="REFERENCE", help="Folder of reference segmentations.")],
    baseline: Annotated[Path, typer.Argument(metavar="BASELINE", help="Folder of the baseline's predictions.")],
    methods: Annotated[
        list[Path], typer.Argument(metavar="METHOD...", help="Folders of predictions to compare with the baseline's.")
    ],
    images: Annotated[
        Path | None, typer.Option(help="Folder of the images (imagesTs), for pictures. Default: labels alone.")
    ] = None,
    dataset_json: Annotated[
        Path | None, typer.Option(help="Names the classes. Default: the one beside predictions, else REFERENCE.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for compare.json and compare.html.")] = Path(
        "nnunet_ssl_compare"
    ),
    processes: Processes = None,
) -> None:
    """Did it help on these scans: predictions of one test set, case by case against a baseline's."""
    from itertools import groupby

    from rich.box import SIMPLE
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from nnunet_ssl.compare import wording
    from nnunet_ssl.compare.folders import compare_folders
    from nnunet_ssl.compare.page import JSON_FILE, write_comparison
    from nnunet_ssl.data.raw import listed
    from nnunet_ssl.machine import processes as default_processes

    content = compare_folders(reference, baseline, methods, dataset_json, processes or default_processes(), images)
    page = write_comparison(content, output, images)

    table = Table(title=f"{len(content['cases'])} cases", box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("predictions", overflow="fold")
    for title in (*wording.TITLES.values(), "missed", "spurious", "Dice difference", "p"):
        table.add_column(title, justify="right", min_width=16 if "Dice d" in title else max(map(len, title.split())))
    for name, rows in groupby(wording.rows(content), key=lambda row: row["class"]):
        table.add_section()
        table.add_row(f"[bold]{escape(name)}")
        for row in rows:
            cells = [row[key] for key in (*wording.TITLES, "missed", "spurious", "difference", "p")]
            table.add_row(escape(row["folder"]), *(cell.replace(" [", "\n[").replace("[", r"\[") for cell in cells))
    Console().print(table)
    for method in content["methods"]:
        print(wording.conclusion(content, method))
        for what, cases in wording.cases_of(content, method).items():
            if cases:
                print(f"  {what}: {listed(cases, separator=', ')}")
    for line in (*wording.structures(content), *wording.notes(content)):
        print(line)
    if images is None:
        print("The pictures show labels alone: --images FOLDER (imagesTs) shows the scans, too.")
    print(f"{output / JSON_FILE}\n{page}")
