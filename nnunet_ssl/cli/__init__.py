"""The command `nnunet_ssl VERB`: one module per verb, heavy imports inside the functions."""

import sys

import typer

from nnunet_ssl.cli.check import check
from nnunet_ssl.cli.convert import app as convert
from nnunet_ssl.cli.demo import demo
from nnunet_ssl.cli.evaluate import evaluate
from nnunet_ssl.cli.export import export
from nnunet_ssl.cli.preprocess import preprocess
from nnunet_ssl.cli.run import run
from nnunet_ssl.cli.split import split
from nnunet_ssl.errors import InputError

app = typer.Typer(
    name="nnunet_ssl",
    help="Semi-supervised segmentation on nnU-Net: what nnU-Net's own commands do not do.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(convert, name="convert")
for verb in (preprocess, check, split, run, export, evaluate, demo):
    app.command()(verb)


def main() -> None:
    """Entry point: runs the verb; a fault of the input is one line on stderr and exit status 1."""
    try:
        app()
    except InputError as error:
        print(f"nnunet_ssl: {error}", file=sys.stderr)
        sys.exit(1)
