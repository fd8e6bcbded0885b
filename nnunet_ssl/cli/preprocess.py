"""The verb ``nnunet_ssl preprocess``."""

from typing import Annotated

import typer


def preprocess(
    dataset_id: Annotated[int, typer.Option("-d", "--dataset-id", help="Dataset number, as in nnUNetv2_preprocess.")],
    configuration: Annotated[
        list[str] | None,
        typer.Option("-c", "--configuration", help="Configuration; repeat for several. Default: all nnU-Net has done."),
    ] = None,
    plans: Annotated[str, typer.Option("-p", "--plans", help="Name of the plans.")] = "nnUNetPlans",
    processes: Annotated[
        int | None, typer.Option("-np", min=1, help="Processes. Default as nnU-Net: 8 for 2d, 4 for 3d_fullres.")
    ] = None,
) -> None:
    """Preprocess the unlabeled cases (imagesUnlabeled) with the plans of the labeled ones."""
    from nnunet_ssl.preparation.preprocessing import preprocess_dataset

    preprocess_dataset(dataset_id, configuration, plans, processes)
