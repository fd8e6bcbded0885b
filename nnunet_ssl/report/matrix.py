"""All tables of a report at a glance: a line for each method, a column for each table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nnunet_ssl.listing import Listed
from nnunet_ssl.report import wording
from nnunet_ssl.report.comparison import Comparison, Row, Section
from nnunet_ssl.report.records import ALL

KINDS = {"better": "better", "worse": "worse", "no better": "no difference shown", "one seed": "one seed: no claim"}


def make_matrix(sections: Sequence[Section], methods: dict[str, Listed]) -> dict[str, Any]:
    """The matrix as the template needs it.

    Returns:
        `columns` (title, number of labels, slug of the table), `baselines` (Dice by column), `lines` (label, paper,
        `cells` by column, None where the method was not measured: gain as text and number, Dice, kind, seeds, slug of
        the row), the lines with most columns first, and `kinds`, what the kinds of cells mean.
    """
    tables = [(section, c) for section in sections for c in section.comparisons if c.methods]
    lines: dict[str, dict[str, Any]] = {}
    for number, (section, comparison) in enumerate(tables):
        for row in comparison.rows:
            label = row.group.label
            method = methods.get(row.group.first.method)
            line = lines.setdefault(label, {"label": label, "paper": method.facts.paper if method else ""})
            line.setdefault("cells", [None] * len(tables))[number] = _cell(row, section, comparison)
    ordered = sorted(lines.values(), key=lambda line: (line["cells"].count(None), line["label"].lower()))
    return {
        "columns": [
            {"title": section.title, "labels": _labels(section, comparison), "slug": table_slug(section, comparison)}
            for section, comparison in tables
        ],
        "baselines": [f"{c.lower.dice:.3f}" if c.lower else wording.DASH for _, c in tables],
        "lines": ordered,
        "kinds": KINDS,
    }


def table_slug(section: Section, comparison: Comparison) -> str:
    """The address of a table, and the name of the folder of its figures."""
    same = [other for other in section.comparisons if other.labeled == comparison.labeled]
    number = f"-{same.index(comparison) + 1}" if len(same) > 1 else ""
    return f"{section.slug}_{comparison.labeled}{number}"


def kind(row: Row) -> str:
    """Of :data:`KINDS`."""
    return row.verdict.split(":")[0] if row.claim else "one seed"


def _cell(row: Row, section: Section, comparison: Comparison) -> dict[str, Any]:
    return {
        "gain": wording.signed(row.gain),
        "value": f"{row.group.dice if row.gain is None else row.gain:.5f}",
        "dice": f"{row.group.dice:.3f}",
        "seeds": row.group.seeds,
        "kind": kind(row),
        "slug": f"{table_slug(section, comparison)}--{comparison.methods.index(row.group)}",
    }


def _labels(section: Section, comparison: Comparison) -> str:
    return "all labels" if comparison.labeled == ALL else wording.title(section, comparison)
