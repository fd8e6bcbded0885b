"""``nnunet_ssl convert DATASET``: public data sets to nnU-Net raw datasets with unlabeled cases."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nnunet_ssl.errors import InputError

if TYPE_CHECKING:
    from nnunet_ssl.data.conversion import Conversion

app = typer.Typer(
    name="convert",
    help="Convert a public data set to an nnU-Net raw dataset with unlabeled cases.",
    no_args_is_help=True,
)

Source = Annotated[Path, typer.Argument(help="Folder of the data set as downloaded.", show_default=False)]
DatasetId = Annotated[int, typer.Option("--dataset-id", help="nnU-Net's id of the new dataset.", show_default=False)]
Labeled = Annotated[
    int | None,
    typer.Option(help="Number of labeled cases, the first of the training list (default 8).", show_default=False),
]
LabeledList = Annotated[
    Path | None, typer.Option(help="File with the ids of the labeled cases, one a line.", show_default=False)
]
Processes = Annotated[int, typer.Option("-np", min=1, help="Worker processes.")]
DEFAULT_PROCESSES = min(8, os.cpu_count() or 1)


@app.command()
def la(
    source: Source,
    dataset_id: DatasetId,
    labeled: Labeled = None,
    labeled_list: LabeledList = None,
    name: Annotated[str, typer.Option(help="Name of the new dataset.")] = "LA",
    processes: Processes = DEFAULT_PROCESSES,
) -> None:
    """Left atrium (2018 challenge): the preprocessed h5 files or the original nrrd files."""
    from nnunet_ssl.dataset_conversion.la import la_conversion

    _write(la_conversion(source, _which_labeled(labeled, labeled_list, 8)), dataset_id, name, processes)


def _which_labeled(number: int | None, file: Path | None, default: int) -> int | Path:
    if number is not None and file is not None:
        raise InputError("Give --labeled or --labeled-list, not both.")
    return file or (default if number is None else number)


def _write(conversion: "Conversion", dataset_id: int, name: str, processes: int) -> None:
    from nnunet_ssl.data.conversion import write_raw_dataset

    for warning in conversion.warnings:
        print(f"Note: {warning}")
    folder, written = write_raw_dataset(conversion, dataset_id, name, processes)
    if not written:
        print(f"{folder} is already there: same source, same options. Nothing was written.")
        return
    counts = ", ".join(f"{len(conversion.ids(part))} {part}" for part in ("labeled", "unlabeled", "test"))
    print(f"{folder}: {counts} cases.\nNext: nnUNetv2_plan_and_preprocess -d {dataset_id} --verify_dataset_integrity")
