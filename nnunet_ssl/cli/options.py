"""The options that several verbs have, called as in nnU-Net's commands; older names stay beside them."""

import os
import re
from enum import Enum
from typing import Annotated

import typer


class Device(str, Enum):
    """Where a verb trains and predicts."""

    cpu = "cpu"
    cuda = "cuda"


def _datasets(incomplete: str) -> list[str]:
    roots = [os.environ.get(f"nnUNet_{kind}", "") for kind in ("raw", "preprocessed", "results")]
    names = {name for root in roots if os.path.isdir(root) for name in os.listdir(root)}
    return sorted(name for name in names if re.match(r"Dataset\d{3}_", name) and name.startswith(incomplete))


def trainers(incomplete: str) -> list[str]:
    """Our trainers that an incomplete word may become, with or without their prefix, for tab completion."""
    from nnunet_ssl.listing import PREFIX, trainer_names

    start = PREFIX if incomplete.startswith("nnU") else ""
    return [start + name for name in trainer_names() if (start + name).startswith(incomplete)]


def _configurations(incomplete: str) -> list[str]:
    names = ("2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres")
    return [name for name in names if name.startswith(incomplete)]


_D, _C, _P = ("-d", "--dataset-id"), ("-c", "--configuration"), ("-p", "--plans", "-plans_name")

Dataset = Annotated[
    str, typer.Option(*_D, metavar="DATASET", help="Number or name: 18 or Dataset018_Heart.", autocompletion=_datasets)
]
Datasets = Annotated[
    list[str],
    typer.Option(
        *_D, metavar="DATASET...", help="Numbers or names, such as 18 or Dataset018_Heart.", autocompletion=_datasets
    ),
]
Configuration = Annotated[
    str, typer.Option(*_C, help="Configuration, such as 3d_fullres.", autocompletion=_configurations)
]
Configurations = Annotated[
    list[str] | None,
    typer.Option(
        *_C, metavar="NAME...", help="Configurations. Default: all that can be done.", autocompletion=_configurations
    ),
]
Trainer = Annotated[
    str,
    typer.Option("-tr", "--trainer", metavar="NAME", help="Trainer: BCP or nnUNetTrainerBCP.", autocompletion=trainers),
]
Plans = Annotated[str, typer.Option(*_P, help="Name of the plans.")]
Processes = Annotated[int | None, typer.Option("-np", min=1, help="Processes. Default: by cores and memory.")]
Where = Annotated[Device, typer.Option("-device", "--device", help="Where to train and predict.")]
