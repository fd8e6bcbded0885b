"""The command `nnunet_ssl VERB`: one module per verb, heavy imports inside the functions."""

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from nnunet_ssl.cli.adopt import adopt
from nnunet_ssl.cli.backbone import backbone
from nnunet_ssl.cli.check import check
from nnunet_ssl.cli.compare import compare
from nnunet_ssl.cli.convert import app as convert
from nnunet_ssl.cli.demo import demo
from nnunet_ssl.cli.estimate import estimate
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
from nnunet_ssl.cli.suggest import suggest
from nnunet_ssl.errors import InputError, machine_fault, say
from nnunet_ssl.names import suggestion

HELP = ("-h", "--help")


class _Road(TyperGroup):
    """Lists the verbs in the order in which they are needed; typer would put those with verbs of their own last."""

    def list_commands(self, context: Any) -> list[str]:
        return sorted(super().list_commands(context), key=ROAD.index)


app = typer.Typer(
    name="nnunet_ssl",
    cls=_Road,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain text, as nnU-Net's: no name is cut, and nothing is imported to draw boxes
    context_settings={"help_option_names": list(HELP)},
)
app.add_typer(convert, name="convert", short_help=convert.info.help)
VERBS = (
    demo, check, preprocess, split, plan, propagate, backbone, methods, estimate, run, predict_next_stage, evaluate,
    compare, report, export, suggest, adopt,
)  # fmt: skip
for verb in VERBS:
    app.command(verb.__name__, short_help=(verb.__doc__ or "").partition("\n")[0])(verb)
ROAD = ("demo", "convert", *(verb.__name__ for verb in VERBS[1:]))


# options that may stand without a value, and which one they have then
VALUE_UNSAID = {"run": {"--baseline": "Supervised"}}


def _print_version(wanted: bool) -> None:
    if wanted:
        from nnunet_ssl import __version__

        typer.echo(f"nnunet_ssl {__version__}")
        raise typer.Exit


@app.callback()
def _every_verb(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Semi-supervised segmentation on nnU-Net: what nnU-Net's own commands do not do."""


def spread(arguments: list[str], command: Any) -> list[str]:
    """Options as typer wants them: once for each value, `-c a b` becomes `-c a -c b`, and none without a value.

    Args:
        command: of typer, for the options of its verb that take several values, as nnU-Net's commands do.
    """
    verb = command.commands.get(arguments[0]) if arguments else None
    options = [] if verb is None else [each for each in verb.params if getattr(each, "multiple", False)]
    many = {name for option in options for name in option.opts}
    unsaid = VALUE_UNSAID.get(arguments[0], {}) if arguments else {}
    result: list[str] = []
    option = None
    for number, argument in enumerate(arguments):
        if argument.startswith("-"):
            option = argument if argument in many else None
            has_values = number + 1 < len(arguments) and not arguments[number + 1].startswith("-")
            result += [] if option and has_values else [argument]
            result += [] if has_values or argument not in unsaid else [unsaid[argument]]
        else:
            result += [option, argument] if option else [argument]
    return result


def _require_verbs(arguments: list[str], group: Any) -> None:
    """Raises InputError where a word stands for a verb, or for a verb of a verb, that there is not."""
    for argument in arguments:
        if argument.startswith("-") or not hasattr(group, "commands"):
            return
        if argument not in group.commands:
            raise InputError(f"There is no `{group.name} {argument[:60]}`. {suggestion(argument, group.commands)}")
        group = group.commands[argument]


def _as_typer_wants(arguments: list[str], command: Any) -> list[str]:
    """With the name before the request for help, `convert --help la`, and options repeated for each value."""
    if len(arguments) == 3 and arguments[0] == "convert" and arguments[1] in HELP:
        arguments = [arguments[0], arguments[2], arguments[1]]
    _require_verbs(arguments, command)
    return spread(arguments, command)


def main() -> None:
    """Entry point: runs the verb. A fault of the input or the machine is one line on stderr and exit status 1."""
    command = typer.main.get_command(app)
    try:
        command(_as_typer_wants(sys.argv[1:], command), prog_name="nnunet_ssl")
    except InputError as error:
        say(str(error))
        sys.exit(1)
    except (OSError, MemoryError, RuntimeError) as error:
        if not (fault := machine_fault(error)):
            raise
        say(f"{fault} and run the same command again.")
        sys.exit(1)
