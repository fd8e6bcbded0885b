"""The verb ``nnunet_ssl plan``."""

from typing import Annotated

import typer

from nnunet_ssl.cli.options import Dataset, Processes


def plan(
    dataset: Dataset,
    fold: Annotated[int, typer.Option("-f", "--fold", min=0, help="Fold of splits_final.json.")],
    planner: Annotated[
        str, typer.Option("-pl", help="Planner class of nnU-Net, such as nnUNetPlannerResEncM.")
    ] = "ExperimentPlanner",
    plans: Annotated[
        str | None, typer.Option("-p", "--plans", "-overwrite_plans_name", help="Default: the planner's with _foldN.")
    ] = None,
    gpu_memory_target: Annotated[
        float | None, typer.Option("-gpu_memory_target", help="GPU memory in GB. Default: the planner's.")
    ] = None,
    overwrite_target_spacing: Annotated[
        tuple[float, float, float] | None,
        typer.Option("-overwrite_target_spacing", help="Of 3d_fullres, in mm.", show_default=False),
    ] = None,
    processes: Processes = None,
) -> None:
    """Plan on the labels that a fold may see: nnU-Net's own planning uses those that the fold hides too."""
    from nnunet_ssl.data.raw import dataset_id
    from nnunet_ssl.files import read_json
    from nnunet_ssl.machine import processes as default_processes
    from nnunet_ssl.preparation.planning import ADVICE, RECORD, plan_fold

    number = dataset_id(dataset)
    file = plan_fold(
        number, fold, planner, plans, gpu_memory_target, overwrite_target_spacing,
        processes or default_processes(),
    )  # fmt: skip
    content = read_json(file, ADVICE)
    name, configurations = file.stem, content["configurations"]
    typer.echo(f"{file}: planned on the {len(content[RECORD]['planned_on'])} labeled cases of fold {fold}")
    for configuration, settings in configurations.items():
        if "patch_size" in settings:
            typer.echo(f"  {configuration}: patch {settings['patch_size']}, batch {settings['batch_size']}")
    example = "3d_fullres" if "3d_fullres" in configurations else "2d"
    typer.echo(f"next: nnUNetv2_preprocess -d {number} -plans_name {name} -c {example}")
    typer.echo(f"      nnunet_ssl preprocess -d {number} -p {name} -c {example}")
    typer.echo(f"      nnUNetv2_train {number} {example} {fold} -p {name} -tr nnUNetTrainerBCP")
