"""The verb ``nnunet_ssl run``."""

from enum import Enum
from typing import Annotated

import typer

from nnunet_ssl.cli.options import Configuration, Dataset, Device, Plans, Where, trainers


class Executor(str, Enum):
    """Where the runs happen."""

    local = "local"
    slurm = "slurm"


def run(
    dataset: Dataset,
    configuration: Configuration,
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "-tr", "--methods", metavar="NAME...", help="Trainers, such as BCP CutMix.", autocompletion=trainers
        ),
    ] = None,
    folds: Annotated[
        list[str] | None, typer.Option("-f", "--folds", metavar="FOLD...", help="Such as 0 1. Default: all.")
    ] = None,
    seeds: Annotated[
        list[str] | None,
        typer.Option(metavar="SEED...", help="Such as 0 1 2; in nnUNet_results/seed_SEED each."),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            help="Also a baseline, first in the table: without a name nnU-Net alone, Supervised; or SupervisedMix."
        ),
    ] = None,
    test: Annotated[
        bool, typer.Option("--test", help="Also predict imagesTs with the final checkpoints, and measure by labelsTs.")
    ] = False,
    plans: Plans = "nnUNetPlans",
    device: Where = Device.cuda,
    gpus: Annotated[
        list[str] | None,
        typer.Option(metavar="GPU...", help="Such as 0 1: one run at a time on each."),
    ] = None,
    config: Annotated[
        str, typer.Option(envvar="nnUNet_ssl_config", help="Overrides: a YAML file, or {num_epochs: 100}.")
    ] = "",
    executor: Annotated[Executor, typer.Option(help="This machine, or a cluster through submitit.")] = Executor.local,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the trainings with their folders and states, and start none.")
    ] = False,
    slurm: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE...", help="time (minutes, needed), partition, gpus, mem...")
    ] = None,
) -> None:
    """Train methods over folds and seeds; run again to go on; ends with a table of the Dice."""
    from nnunet_ssl.data.raw import dataset_id
    from nnunet_ssl.errors import InputError
    from nnunet_ssl.runner.local import run_local
    from nnunet_ssl.runner.plan import in_lines, numbers, plan, words
    from nnunet_ssl.runner.table import write_table

    if gpus and (device is not Device.cuda or executor is Executor.slurm):
        raise InputError("--gpus is for --device cuda on this machine; on a cluster say --slurm gpus=1.")
    if slurm and executor is not Executor.slurm:
        raise InputError("--slurm is for --executor slurm.")
    experiment, runs = plan(
        dataset_id(dataset), configuration, words(methods), numbers(folds, "--folds"), numbers(seeds, "--seeds"),
        baseline, plans, device.value, config, test=test, dry=dry_run,
    )  # fmt: skip
    if dry_run:
        print(in_lines(experiment, runs))
        return
    if executor is Executor.slurm:
        from nnunet_ssl.runner.slurm import run_submitted, slurm_executor

        outcomes = run_submitted(experiment, runs, slurm_executor(experiment, slurm or []))
    else:
        outcomes = run_local(experiment, runs, words(gpus))
    failures = [outcome for outcome in outcomes if outcome.error]
    try:
        table, file = write_table(experiment, runs)
        print(f"\n{table}\n{file}\n{file.with_suffix('.json')}")
    finally:  # hours of training are told of, whether there is a table or not
        if failures:
            failed = f"{len(failures)} of {len(runs)} runs failed"
            typer.echo(f"nnunet_ssl: {failed}; the same command tries again.", err=True)
        for failure in failures:
            typer.echo(f"  {failure.run}: {failure.error}\n    {failure.log}", err=True)
    if failures:
        raise typer.Exit(1)
