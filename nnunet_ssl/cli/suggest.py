"""The verb ``nnunet_ssl suggest``."""

from pathlib import Path
from typing import Annotated

import typer

from nnunet_ssl.cli.options import Configuration, Dataset, Device, Plans, Processes, Trainer, Where


def suggest(
    dataset: Dataset,
    configuration: Configuration,
    trainer: Trainer,
    folds: Annotated[
        list[str], typer.Option("-f", "--folds", metavar="FOLD...", help="Several score together, such as 0 1; or all.")
    ],
    n: Annotated[int, typer.Option("-n", help="How many cases to suggest.")] = 5,
    strategy: Annotated[
        str, typer.Option(help="boostmis, entropy, mutual-information, diversity or random.")
    ] = "boostmis",
    out: Annotated[Path, typer.Option("-o", help="New folder, or that of an earlier suggestion.")] = Path(
        "nnunet_ssl_suggested"
    ),
    plans: Plans = "nnUNetPlans",
    checkpoint: Annotated[str, typer.Option("-chk", help="Checkpoint file.")] = "checkpoint_final.pth",
    device: Where = Device.cuda,
    processes: Processes = None,
    disable_tta: Annotated[bool, typer.Option("--disable_tta", help="No mirroring: faster, less exact.")] = False,
    seed: Annotated[int, typer.Option(help="Of the strategy random.")] = 0,
) -> None:
    """Say which unlabeled scans to annotate next, with drafts to correct and a page of pictures."""
    from nnunet_ssl.annotation.suggest import suggest as write_suggestion
    from nnunet_ssl.data.raw import dataset_id
    from nnunet_ssl.listing import full_name
    from nnunet_ssl.machine import processes as default_processes

    page = write_suggestion(
        dataset_id(dataset), configuration, full_name(trainer), folds, n, strategy, out, plans, checkpoint,
        device.value, processes or default_processes(2), not disable_tta, seed,
    )  # fmt: skip
    print(page)
