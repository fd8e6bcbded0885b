"""The verb ``nnunet_ssl report``."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="DIR...", help="nnUNet_results after nnunet_ssl run, or folders of accuracy records."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the page, new or of an earlier report.")
    ] = Path("nnunet_ssl_report"),
    overlays: Annotated[
        list[Path] | None,
        typer.Option(help="Work folder of the accuracy benchmark, for pictures of test cases; repeatable."),
    ] = None,
    baseline: Annotated[
        str, typer.Option(help="The method that the others are compared with, such as SupervisedMix.")
    ] = "supervised",
) -> None:
    """One page on experiments: methods between their bounds, tests, learning curves, costs."""
    from nnunet_ssl.report.page import write_report

    print(write_report(folders, output, overlays or [], baseline))
