"""The verb ``nnunet_ssl propagate``."""

from typing import Annotated

import typer


def propagate(
    dataset_id: Annotated[int, typer.Option("-d", "--dataset-id", help="Dataset number.")],
    configuration: Annotated[str, typer.Option("-c", "--configuration", help="Configuration.")] = "3d_fullres",
    plans: Annotated[str, typer.Option("-p", "--plans", help="Name of the plans.")] = "nnUNetPlans",
    processes: Annotated[int, typer.Option("-np", min=1, help="Processes.")] = 4,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Make finished cases again.")] = False,
) -> None:
    """Carry the labels of cases annotated in two orthogonal slices through their scans, for DeSCO."""
    from nnunet_ssl.preparation.propagation import propagate_dataset

    propagate_dataset(dataset_id, configuration, plans, processes, overwrite)
