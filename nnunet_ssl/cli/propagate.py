"""The verb ``nnunet_ssl propagate``."""

from typing import Annotated

import typer

from nnunet_ssl.cli.options import Configuration, Dataset, Plans, Processes


def propagate(
    dataset: Dataset,
    configuration: Configuration = "3d_fullres",
    plans: Plans = "nnUNetPlans",
    processes: Processes = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Make finished cases again.")] = False,
) -> None:
    """Carry the labels of cases annotated in two orthogonal slices through their scans, for DeSCO."""
    from nnunet_ssl.data.raw import dataset_id
    from nnunet_ssl.machine import processes as default_processes
    from nnunet_ssl.preparation.propagation import propagate_dataset

    propagate_dataset(dataset_id(dataset), configuration, plans, processes or default_processes(4), overwrite)
