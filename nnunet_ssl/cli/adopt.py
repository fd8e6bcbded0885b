"""The verb ``nnunet_ssl adopt``."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from nnunet_ssl.cli.options import Dataset, Processes
from nnunet_ssl.errors import InputError


def adopt(
    dataset: Dataset,
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="LABELS_FOLDER", help="Folder with CASE.seg.nrrd, CASE.nii.gz, CASE.nrrd or CASE.mha."),
    ] = None,
    given: Annotated[
        list[str] | None,
        typer.Option(
            "--map", metavar="NAME=LABEL", help="What a name or number in the files means; repeat for several."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask, for scripts.")] = False,
    allow_empty: Annotated[bool, typer.Option("--allow-empty", help="Take labels without foreground.")] = False,
    unchanged_too: Annotated[bool, typer.Option("--unchanged-too", help="Take drafts that nobody changed.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Take back the last adoption.")] = False,
    processes: Processes = None,
) -> None:
    """Take in labels that people corrected or drew: unlabeled cases become labeled ones."""
    from nnunet_ssl.annotation.adopt import adopt_labels, undo_last
    from nnunet_ssl.data.raw import dataset_id
    from nnunet_ssl.machine import processes as default_processes

    if undo:
        if folder is not None:
            raise InputError("--undo takes back the last adoption: give it no folder.")
        undo_last(dataset_id(dataset))
        return
    if folder is None:
        raise InputError("Name the folder with the labels: nnunet_ssl adopt -d N LABELS_FOLDER.")

    def agree(question: str) -> bool:
        if not yes and not sys.stdin.isatty():
            raise InputError(f"{question} Nobody is there to be asked: say --yes. Nothing was changed.")
        return yes or typer.confirm(question)

    adopt_labels(
        dataset_id(dataset), folder, given, None if dry_run else agree, allow_empty, unchanged_too,
        processes or default_processes(4),
    )  # fmt: skip
