"""The verb ``nnunet_ssl predict_next_stage``."""

from typing import Annotated

import typer

from nnunet_ssl.cli.demo import Device


def predict_next_stage(
    dataset_id: Annotated[int, typer.Option("-d", help="Dataset number.")],
    trainer: Annotated[str, typer.Option("-tr", help="Trainer, such as nnUNetTrainerMeanTeacher.")],
    folds: Annotated[list[str], typer.Option("-f", help="Fold, or all; repeatable.")],
    configuration: Annotated[str, typer.Option("-c", help="First stage of the cascade.")] = "3d_lowres",
    plans: Annotated[str, typer.Option("-p", help="Plans.")] = "nnUNetPlans",
    device: Annotated[Device, typer.Option("-device", help="Where to predict.")] = Device.cuda,
    processes: Annotated[int, typer.Option("-np", min=1, help="Processes that resample and write.")] = 4,
) -> None:
    """Predict the unlabeled cases with the trained first stage of a cascade, for the second stage."""
    from nnunet_ssl.preparation.next_stage import predict_unlabeled

    predict_unlabeled(dataset_id, trainer, folds, plans, configuration, device.value, processes)
