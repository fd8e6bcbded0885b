"""The verb ``nnunet_ssl preprocess``."""

from typing import Annotated

import typer

from nnunet_ssl.cli.options import Configurations, Datasets, Plans, Processes


def preprocess(
    datasets: Datasets,
    configuration: Configurations = None,
    plans: Plans = "nnUNetPlans",
    processes: Processes = None,
    half: Annotated[
        bool, typer.Option("--half", help="Store images as float16: half the disk, three digits of a grey level.")
    ] = False,
) -> None:
    """Preprocess the unlabeled cases (imagesUnlabeled) with the plans of the labeled ones."""
    from nnunet_ssl.data.raw import dataset_id
    from nnunet_ssl.preparation.preprocessing import preprocess_dataset

    for number in map(dataset_id, datasets):
        preprocess_dataset(number, configuration, plans, processes, half)
