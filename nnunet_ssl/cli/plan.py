"""The verb ``nnunet_ssl plan``."""

from typing import Annotated

import typer


def plan(
    dataset_id: Annotated[int, typer.Option("-d", "--dataset-id", help="Dataset number.")],
    fold: Annotated[int, typer.Option("-f", "--fold", min=0, help="Fold of splits_final.json.")],
    planner: Annotated[
        str, typer.Option("-pl", help="Planner class of nnU-Net, such as nnUNetPlannerResEncM.")
    ] = "ExperimentPlanner",
    plans: Annotated[
        str | None, typer.Option("-p", "--plans", help="Name of the plans. Default: the planner's with _foldN.")
    ] = None,
    gpu_memory_target: Annotated[
        float | None, typer.Option("-gpu_memory_target", help="GPU memory in GB. Default: the planner's.")
    ] = None,
    overwrite_target_spacing: Annotated[
        tuple[float, float, float] | None,
        typer.Option("-overwrite_target_spacing", help="Of 3d_fullres, in mm.", show_default=False),
    ] = None,
    processes: Annotated[int | None, typer.Option("-np", min=1, help="Cases read at once. Default: nnU-Net's.")] = None,
) -> None:
    """Plan on the labels that a fold may see: nnU-Net's own planning uses those that the fold hides too."""
    from nnunetv2.configuration import default_num_processes

    from nnunet_ssl.files import read_json
    from nnunet_ssl.preparation.planning import ADVICE, RECORD, plan_fold

    file = plan_fold(
        dataset_id, fold, planner, plans, gpu_memory_target, overwrite_target_spacing,
        processes or default_num_processes,
    )  # fmt: skip
    content = read_json(file, ADVICE)
    name, configurations = file.stem, content["configurations"]
    typer.echo(f"{file}: planned on the {len(content[RECORD]['planned_on'])} labeled cases of fold {fold}")
    for configuration, settings in configurations.items():
        if "patch_size" in settings:
            typer.echo(f"  {configuration}: patch {settings['patch_size']}, batch {settings['batch_size']}")
    example = "3d_fullres" if "3d_fullres" in configurations else "2d"
    typer.echo(f"next: nnUNetv2_preprocess -d {dataset_id} -plans_name {name} -c {example}")
    typer.echo(f"      nnunet_ssl preprocess -d {dataset_id} -p {name} -c {example}")
    typer.echo(f"      nnUNetv2_train {dataset_id} {example} {fold} -p {name} -tr nnUNetTrainerMeanTeacher")
