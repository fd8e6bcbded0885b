"""The verb ``nnunet_ssl predict_next_stage``."""

from typing import Annotated

import typer

from nnunet_ssl.cli.options import Configuration, Dataset, Device, Plans, Processes, Trainer, Where


def predict_next_stage(
    dataset: Dataset,
    trainer: Trainer,
    folds: Annotated[list[str], typer.Option("-f", "--folds", metavar="FOLD...", help="Folds, or all.")],
    configuration: Configuration = "3d_lowres",
    plans: Plans = "nnUNetPlans",
    device: Where = Device.cuda,
    processes: Processes = None,
) -> None:
    """Predict the unlabeled cases with the trained first stage of a cascade, for the second stage."""
    from nnunet_ssl.data.raw import dataset_id
    from nnunet_ssl.listing import full_name
    from nnunet_ssl.machine import processes as default_processes
    from nnunet_ssl.preparation.next_stage import predict_unlabeled

    trained = (dataset_id(dataset), full_name(trainer), folds, plans, configuration)
    predict_unlabeled(*trained, device.value, processes or default_processes(4))
