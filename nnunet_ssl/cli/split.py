"""The verb ``nnunet_ssl split``."""

from typing import Annotated

import typer


def split(
    dataset_id: Annotated[int, typer.Option("-d", "--dataset-id", help="Dataset number.")],
    labeled: Annotated[
        str | None, typer.Option(help="Labels a fold may use: a share (10%) or a number of cases (8). Default: all.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of folds and labeled subset; default: nnU-Net's.")] = 12345,
    folds: Annotated[int, typer.Option(min=2, help="Number of folds.")] = 5,
    force: Annotated[bool, typer.Option("--force", help="Replace a different splits_final.json.")] = False,
) -> None:
    """Write splits_final.json: nnU-Net's folds, with part of the training labels hidden if asked."""
    from nnunet_ssl.data.splits import PLANS_NOTE, parse_labeled, read_splits, write_splits

    share = None if labeled is None else parse_labeled(labeled)
    file = write_splits(dataset_id, share, seed, folds, force)
    typer.echo(f"{file}:")
    for fold, lists in enumerate(read_splits(file)):
        typer.echo(f"  fold {fold}: " + ", ".join(f"{len(ids)} {key}" for key, ids in lists.items()))
    if share is not None:
        typer.echo(f"Note: {PLANS_NOTE}")
