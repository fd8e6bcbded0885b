"""The command `nnunet_ssl VERB`: one module per verb, heavy imports inside the functions."""

import sys

import typer

from nnunet_ssl.cli.adopt import adopt
from nnunet_ssl.cli.backbone import backbone
from nnunet_ssl.cli.check import check
from nnunet_ssl.cli.convert import app as convert
from nnunet_ssl.cli.demo import demo
from nnunet_ssl.cli.evaluate import evaluate
from nnunet_ssl.cli.export import export
from nnunet_ssl.cli.methods import methods
from nnunet_ssl.cli.plan import plan
from nnunet_ssl.cli.predict_next_stage import predict_next_stage
from nnunet_ssl.cli.preprocess import preprocess
from nnunet_ssl.cli.propagate import propagate
from nnunet_ssl.cli.report import report
from nnunet_ssl.cli.run import run
from nnunet_ssl.cli.split import split
from nnunet_ssl.errors import InputError, machine_fault, say

app = typer.Typer(
    name="nnunet_ssl",
    help="Semi-supervised segmentation on nnU-Net: what nnU-Net's own commands do not do.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(convert, name="convert")
for verb in (
    preprocess, propagate, check, split, plan, methods, backbone, run, predict_next_stage, export, evaluate, report,
    adopt, demo,
):  # fmt: skip
    app.command(verb.__name__)(verb)


# options that take several values at once, as nnU-Net's commands do: -c 2d 3d_fullres
MANY_VALUES = {
    "preprocess": {"-c"},
    "backbone": {"-c"},
    "run": {"--methods", "--folds", "--seeds", "--gpus", "--slurm"},
    "predict_next_stage": {"-f"},
    "export": {"-f"},
    "report": {"--overlays"},
}


def spread(arguments: list[str]) -> list[str]:
    """Repeats an option for each of its values, which is how typer wants them: `-c a b` becomes `-c a -c b`."""
    many = MANY_VALUES.get(arguments[0], set()) if arguments else set()
    result: list[str] = []
    option = None
    for number, argument in enumerate(arguments):
        if argument.startswith("-"):
            option = argument if argument in many else None
            has_values = number + 1 < len(arguments) and not arguments[number + 1].startswith("-")
            result += [] if option and has_values else [argument]
        else:
            result += [option, argument] if option else [argument]
    return result


def main() -> None:
    """Entry point: runs the verb. A fault of the input or the machine is one line on stderr and exit status 1."""
    try:
        app(spread(sys.argv[1:]))
    except InputError as error:
        say(str(error))
        sys.exit(1)
    except (OSError, MemoryError, RuntimeError) as error:
        if not (fault := machine_fault(error)):
            raise
        say(f"{fault} and run the same command again.")
        sys.exit(1)
