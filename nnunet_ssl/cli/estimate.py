"""The verb ``nnunet_ssl estimate``."""

from pathlib import Path
from typing import Annotated

import typer

from nnunet_ssl.cli.options import Configuration, Dataset, Device, Plans, Trainer, Where


def estimate(
    dataset: Dataset,
    configuration: Configuration,
    trainer: Trainer,
    fold: Annotated[str, typer.Option("-f", "--fold", help="A number, or all.")] = "0",
    plans: Plans = "nnUNetPlans",
    device: Where = Device.cuda,
    config: Annotated[
        str, typer.Option(envvar="nnUNet_ssl_config", help="Overrides: a YAML file, or {num_epochs: 100}.")
    ] = "",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write all figures as JSON.")] = None,
) -> None:
    """Tell what a training would take: memory, seconds a step, hours, disk; by ten steps of it, nothing is left."""
    from nnunet_ssl.data.raw import dataset_id
    from nnunet_ssl.errors import InputError
    from nnunet_ssl.estimate.estimate import estimate as estimated
    from nnunet_ssl.estimate.wording import in_lines
    from nnunet_ssl.files import write_json

    if output and not output.absolute().parent.is_dir():
        raise InputError(f"-o {output}: the folder {output.absolute().parent} does not exist.")
    found = estimated(dataset_id(dataset), configuration, trainer, fold, plans, device.value, config)
    print("\n".join(["", *in_lines(found)]))
    if output:
        write_json(found, output)
