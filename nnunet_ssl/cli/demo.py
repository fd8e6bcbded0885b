"""``nnunet_ssl demo``: the whole pipeline on a phantom."""

from pathlib import Path
from typing import Annotated

import typer

from nnunet_ssl.cli.options import Device, Where


def demo(
    device: Where = Device.cpu,
    folder: Annotated[Path, typer.Option(help="New folder, or that of an earlier demo.")] = Path("nnunet_ssl_demo"),
    seed: Annotated[int, typer.Option(help="Of the phantom and of both trainings.")] = 0,
) -> None:
    """Phantom, baseline, BCP, table and picture in a few minutes on a CPU."""
    from nnunet_ssl.demo.pipeline import run_demo

    run_demo(folder, device.value, seed)
