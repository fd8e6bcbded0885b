"""``nnunet_ssl methods``: which methods there are, and one of them in full."""

from typing import Annotated

import typer


def methods(
    name: Annotated[str | None, typer.Argument(help="Show one method in full: MeanTeacher, UAMT, ...")] = None,
) -> None:
    """The methods with paper and cost; one with formulas, hyperparameters and published figures."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.markdown import Markdown
    from rich.markup import escape
    from rich.table import Table

    from nnunet_ssl.catalog import PREFIX, find_entry, page, read_catalog

    entries = read_catalog()
    console = Console()
    if name is not None:
        console.print(Markdown(page(find_entry(entries, name))))
        return
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("trainer", no_wrap=True)
    table.add_column("paper", ratio=3)
    table.add_column("cost")
    table.add_column("idea", ratio=5)
    for entry in entries:
        plain, *variants = entry.trainers
        facts = entry.facts
        table.add_row(*map(escape, (plain.name, facts.paper, facts.cost, entry.idea)))
        for variant in variants:
            table.add_row(escape(variant.name), "", "", escape(variant.summary))
    console.print(table)
    console.print(f"Train with: nnUNetv2_train DATASET CONFIGURATION FOLD -tr {PREFIX}NAME", markup=False)
    console.print("cost: of a step; 1 is a supervised step on the same patches. In full: nnunet_ssl methods NAME")
