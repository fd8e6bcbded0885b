"""The verb ``nnunet_ssl backbone``."""

from typing import Annotated

import typer

from nnunet_ssl.cli.options import Configurations, Dataset, Plans


def backbone(
    dataset: Dataset,
    network: Annotated[
        str,
        typer.Option(
            help="vnet, attention_unet, segresnet, unetr, swin_unetr (these need MONAI), enet, primus_s, primus_b, "
            "primus_m or primus_l."
        ),
    ],
    out: Annotated[str, typer.Option("-o", "--out", help="Name of the new plans.")],
    plans: Plans = "nnUNetPlans",
    configuration: Configurations = None,
) -> None:
    """Write plans with another network; patch, batch and preprocessed data stay those of the old plans."""
    from nnunet_ssl.data.raw import dataset_id, preprocessed_folder
    from nnunet_ssl.preparation.backbones import write_plans

    number = dataset_id(dataset)
    written = write_plans(preprocessed_folder(number), plans, network, out, configuration)
    typer.echo(f"{written.file}:")
    for name, parameters in written.parameters.items():
        typer.echo(f"  {name}: {network}, {parameters / 1e6:.1f} million parameters")
    for reason in written.left_out.values():
        typer.echo(f"  left out: {reason}")
    example = next(iter(written.parameters))
    typer.echo(f"train with: nnUNetv2_train {number} {example} 0 -p {out} -tr nnUNetTrainerBCP")
