"""The verb ``nnunet_ssl backbone``."""

from typing import Annotated

import typer


def backbone(
    dataset_id: Annotated[int, typer.Option("-d", "--dataset-id", help="Dataset number.")],
    network: Annotated[
        str,
        typer.Option(
            help="vnet, attention_unet, segresnet, unetr, swin_unetr (these need MONAI), enet, primus_s, primus_b, "
            "primus_m or primus_l."
        ),
    ],
    out: Annotated[str, typer.Option("-o", "--out", help="Name of the new plans.")],
    plans: Annotated[str, typer.Option("-p", "--plans", help="Name of nnU-Net's plans.")] = "nnUNetPlans",
    configuration: Annotated[
        list[str] | None,
        typer.Option("-c", "--configuration", help="Configuration. Default: all that the network can do."),
    ] = None,
) -> None:
    """Write plans with another network; patch, batch and preprocessed data stay those of the old plans."""
    from nnunet_ssl.data.raw import preprocessed_folder
    from nnunet_ssl.preparation.backbones import write_plans

    written = write_plans(preprocessed_folder(dataset_id), plans, network, out, configuration)
    typer.echo(f"{written.file}:")
    for name, parameters in written.parameters.items():
        typer.echo(f"  {name}: {network}, {parameters / 1e6:.1f} million parameters")
    for reason in written.left_out.values():
        typer.echo(f"  left out: {reason}")
    example = next(iter(written.parameters))
    typer.echo(f"train with: nnUNetv2_train {dataset_id} {example} 0 -p {out} -tr nnUNetTrainerMeanTeacher")
