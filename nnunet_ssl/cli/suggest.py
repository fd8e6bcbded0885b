"""The verb ``nnunet_ssl suggest``."""

from pathlib import Path
from typing import Annotated

import typer

from nnunet_ssl.cli.demo import Device


def suggest(
    dataset_id: Annotated[int, typer.Option("-d", help="Dataset number.")],
    configuration: Annotated[str, typer.Option("-c", help="Configuration, such as 3d_fullres.")],
    trainer: Annotated[str, typer.Option("-tr", help="Trainer, such as nnUNetTrainerMeanTeacher.")],
    folds: Annotated[list[str], typer.Option("-f", help="Fold, or all; repeatable: several score together.")],
    n: Annotated[int, typer.Option("-n", help="How many cases to suggest.")] = 5,
    strategy: Annotated[
        str, typer.Option(help="boostmis, entropy, mutual-information, diversity or random.")
    ] = "boostmis",
    out: Annotated[Path, typer.Option("-o", help="New folder, or that of an earlier suggestion.")] = Path(
        "nnunet_ssl_suggested"
    ),
    plans: Annotated[str, typer.Option("-p", help="Plans.")] = "nnUNetPlans",
    checkpoint: Annotated[str, typer.Option("-chk", help="Checkpoint file.")] = "checkpoint_final.pth",
    device: Annotated[Device, typer.Option("-device", help="Where to predict.")] = Device.cuda,
    processes: Annotated[int, typer.Option("-np", min=1, help="Processes that resample and write drafts.")] = 2,
    disable_tta: Annotated[bool, typer.Option("--disable_tta", help="No mirroring: faster, less exact.")] = False,
    seed: Annotated[int, typer.Option(help="Of the strategy random.")] = 0,
) -> None:
    """Say which unlabeled scans to annotate next, with drafts to correct and a page of pictures."""
    from nnunet_ssl.annotation.suggest import suggest as write_suggestion

    page = write_suggestion(
        dataset_id, configuration, trainer, folds, n, strategy, out, plans, checkpoint, device.value, processes,
        not disable_tta, seed,
    )  # fmt: skip
    print(page)
