"""`nnunet_ssl export`."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from nnunet_ssl.cli.options import Configuration, Dataset, Plans, Trainer


class Member(str, Enum):
    """Networks of a method that trains two."""

    first = "first"
    second = "second"
    both = "both"


def export(
    dataset: Dataset,
    configuration: Configuration,
    trainer: Trainer,
    out: Annotated[Path, typer.Option("-o", "--output", help="New folder for the model.")],
    folds: Annotated[list[str] | None, typer.Option("-f", "--folds", help="Folds. Default: all trained.")] = None,
    plans: Plans = "nnUNetPlans",
    checkpoint: Annotated[str, typer.Option("-chk", help="Checkpoint file.")] = "checkpoint_final.pth",
    member: Annotated[
        Member | None, typer.Option(help="Of a method with two networks. Default: what the method predicts with.")
    ] = None,
) -> None:
    """Write a trained model that stock nnU-Net predicts with, where this package is not installed."""
    from nnunet_ssl.data.raw import dataset_id, preprocessed_folder
    from nnunet_ssl.listing import full_name
    from nnunet_ssl.results.export import data_in_words, export_model, trained_model_folder

    base = preprocessed_folder(dataset_id(dataset))
    model = trained_model_folder(base.name, full_name(trainer), plans, configuration)
    folds = folds or sorted(file.parent.name.removeprefix("fold_") for file in model.glob(f"fold_*/{checkpoint}"))
    written = export_model(model, folds, out, member and member.value, checkpoint)
    print("\n".join(data_in_words(out, written)))
    print(f"predict with: nnUNetv2_predict_from_modelfolder -i IN -o OUT -m {out} -f {' '.join(written)}")
