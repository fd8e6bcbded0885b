"""``nnunet_ssl methods``: which methods there are, and one of them in full."""

from typing import Annotated

import typer

from nnunet_ssl.cli.options import trainers


def methods(
    name: Annotated[
        str | None, typer.Argument(help="Show one method in full: BCP, CutMix, ...", autocompletion=trainers)
    ] = None,
) -> None:
    """The methods with paper and cost; one with formulas, hyperparameters and the terms of its log."""
    typer.echo(_table() if name is None else _page(name))


def _page(name: str) -> str:
    from rich.console import Console
    from rich.markdown import Markdown

    from nnunet_ssl.catalog import page, read_entry

    console = Console()
    with console.capture() as captured:
        console.print(Markdown(page(read_entry(name))))
    return captured.get()


def _table() -> str:
    """Each trainer with its cost and idea; what is shown comes from files alone, without torch."""
    import shutil
    from textwrap import wrap

    from nnunet_ssl.listing import PREFIX, read_listing

    listing = read_listing()
    width = min(100, shutil.get_terminal_size().columns)
    column = max(len(trainer.name) for listed in listing for trainer in listed.trainers)
    lines = [f"   {'trainer':{column}}  cost  idea"]
    for listed in listing:
        facts, (plain, *variants) = listed.facts, listed.trainers
        marks = ("*" if facts.first else " ") + ("m" if listed.measured else " ")
        rows = [(marks, plain.name, facts.cost, f"{listed.idea} {facts.paper}")]
        for mark, trainer, cost, text in [*rows, *(("", each.name, "", each.summary) for each in variants)]:
            start = f"{mark:2} {trainer:{column}}  {cost:4}  "
            lines += wrap(text, width, initial_indent=start, subsequent_indent=" " * len(start))
    return "\n".join(lines) + (
        "\n\n*     to begin with\nm     measured here, see docs/findings.md\n"
        "cost  of a step; 1 is a supervised step on the same patches\n\n"
        f"Train with: nnUNetv2_train DATASET CONFIGURATION FOLD -tr {PREFIX}NAME\nIn full: nnunet_ssl methods NAME"
    )
