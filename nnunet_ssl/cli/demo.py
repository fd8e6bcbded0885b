"""``nnunet_ssl demo``: the whole pipeline on a phantom."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class Device(str, Enum):
    """Where the demo trains and predicts."""

    cpu = "cpu"
    cuda = "cuda"


def demo(
    device: Annotated[Device, typer.Option(help="Where to train and predict.")] = Device.cpu,
    folder: Annotated[Path, typer.Option(help="New folder, or that of an earlier demo.")] = Path("nnunet_ssl_demo"),
) -> None:
    """Phantom, baseline, Mean Teacher, table and picture in a few minutes on a CPU."""
    from nnunet_ssl.demo.pipeline import run_demo

    run_demo(folder, device.value)
