"""The verb ``nnunet_ssl split``."""

from pathlib import Path
from typing import Annotated

import typer

from nnunet_ssl.cli.options import Datasets


def split(
    datasets: Datasets,
    labeled: Annotated[
        str | None, typer.Option(help="Labels a fold may use: a share (10%) or a number of cases (8). Default: all.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of folds and labeled subset; default: nnU-Net's.")] = 12345,
    folds: Annotated[int, typer.Option(min=2, help="Number of folds.")] = 5,
    force: Annotated[bool, typer.Option("--force", help="Replace a different splits_final.json.")] = False,
) -> None:
    """Write splits_final.json: nnU-Net's folds, with part of the training labels hidden if asked."""
    from nnunet_ssl.data.raw import dataset_id
    from nnunet_ssl.data.splits import parse_labeled, write_splits

    share = None if labeled is None else parse_labeled(labeled)
    for number in map(dataset_id, datasets):
        _tell(number, write_splits(number, share, seed, folds, force))


def _tell(number: int, file: Path) -> None:
    from nnunet_ssl.data.splits import read_splits
    from nnunet_ssl.data.trained import in_lines
    from nnunet_ssl.preparation.planning import EFFECT, hidden_labels_in_plans, in_words

    typer.echo(f"{file}:")
    splits = read_splits(file)
    for fold, lists in enumerate(splits):
        typer.echo(f"  fold {fold}: " + ", ".join(f"{len(ids)} {key}" for key, ids in lists.items()))
    if trained := in_lines(file.parent.name, splits):
        typer.echo(f"Note: {trained}")
    if plans := hidden_labels_in_plans(file.parent, splits):
        typer.echo(f"Note: plans were made with labels that a fold hides; {EFFECT}:")
        for name, seen in plans.items():
            typer.echo(f"  {name}: {in_words(seen)}")
        typer.echo(f"Plans without them: nnunet_ssl plan -d {number} -f FOLD")
