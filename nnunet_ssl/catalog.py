"""What there is to choose from: every method with its trainers, formulas, hyperparameters, cost and citation.

Read from where it already stands: `trainers/` and `methods/facts.yaml` (`nnunet_ssl.listing`), the docstrings of
`methods/` and the constructors, for which the methods are imported, and torch with them.
"""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import groupby
from typing import Any, NamedTuple

from nnunet_ssl.errors import InputError
from nnunet_ssl.facts import Facts, Term, mapping_text, value_text
from nnunet_ssl.listing import PREFIX, Listed, Trainer, find_trainer, read_listing
from nnunet_ssl.method import Method
from nnunet_ssl.training.settings import VARIABLE

GREEK = "alpha|beta|gamma|delta|epsilon|zeta|eta|theta|kappa|lambda|mu|nu|xi|pi|rho|sigma|tau|phi|chi|psi|omega"
SYMBOL = re.compile(rf"(?:((?:{GREEK}|[A-Za-z])(?:_\w+)?), )?(.*)")  # how docstrings begin: "lambda, weight of ..."


class Hyperparameter(NamedTuple):
    """A keyword argument of a method.

    Attributes:
        published: its value in the preset "published", None where that has a step of its own without it.
        symbol: the letter that the formulas have for it, "" for none.
    """

    name: str
    default: Any
    published: Any
    symbol: str
    meaning: str


@dataclass(frozen=True)
class Entry:
    """A method and the trainers that train it, its plain one first."""

    method: type[Method]
    listed: Listed

    @property
    def name(self) -> str:
        return self.listed.name

    @property
    def idea(self) -> str:
        """The first sentence of the class."""
        return self.listed.idea

    @property
    def trainers(self) -> tuple[Trainer, ...]:
        return self.listed.trainers

    @property
    def facts(self) -> Facts:
        return self.listed.facts

    @property
    def formula(self) -> str:
        """The docstring of the method's file: the algorithm box."""
        return box(self.method)

    @property
    def hyperparameters(self) -> list[Hyperparameter]:
        """All of them, inherited ones included, in the order of the constructors."""
        return hyperparameters(self.method)

    @property
    def published_step(self) -> type[Method] | None:
        """The method of the preset "published" where that has a step of its own."""
        published, _ = self.method.of_preset("published")
        return published if published is not self.method else None


def box(method: type[Method]) -> str:
    """The docstring of a method's file: the algorithm box."""
    return inspect.cleandoc(sys.modules[method.__module__].__doc__ or "")


def hyperparameters(method: type[Method]) -> list[Hyperparameter]:
    """All of a method, inherited ones included, in the order of the constructors."""
    defaults = method.hyperparameters()
    chosen, values = method.of_preset("published")
    published = (defaults if chosen is method else {}) | values
    meanings: dict[str, str] = {}
    for parent in reversed(method.__mro__):
        meanings |= documented_arguments(vars(parent).get("__doc__") or "")
    parameters = []
    for name, default in defaults.items():
        symbol, meaning = SYMBOL.match(meanings.get(name, "")).groups("")
        parameters.append(Hyperparameter(name, default, published.get(name), symbol, meaning))
    return parameters


def documented_arguments(docstring: str) -> dict[str, str]:
    """The arguments that the section `Args:` of a docstring describes, each in one line."""
    section = re.search(r"^Args:\n((?:[ ]{4}.*\n?|\n)+)", inspect.cleandoc(docstring), re.MULTILINE)
    found: dict[str, str] = {}
    for line in inspect.cleandoc(section[1]).splitlines() if section else []:
        if argument := re.match(r"(\w+): (.*)", line):
            name, found[name] = argument[1], argument[2]
        elif line:
            found[name] += " " + line.strip()
    return found


def read_catalog() -> list[Entry]:
    """Every method that a trainer of the folder `trainers/` states, by name.

    Raises:
        InputError: a method has no facts, or the facts no trainer.
    """
    return [_entry(listed) for listed in read_listing()]


def read_entry(name: str) -> Entry:
    """The method of a trainer, in any case, with or without `nnUNetTrainer` and hyphens; no other is imported.

    Raises:
        InputError: there is none; names the nearest and all.
    """
    trainer = find_trainer(name)
    for listed in read_listing():
        if trainer in [each.name for each in listed.trainers]:
            return _entry(listed)
    raise InputError(f"{PREFIX}{trainer} trains by nnU-Net's loss alone: the baseline has no page of its own.")


def _entry(listed: Listed) -> Entry:
    return Entry(getattr(import_module(listed.module), listed.name), listed)


# ---------------------------------------------------------------------- one method as Markdown


def page(entry: Entry, measured: str = "") -> str:
    """All that is known of a method, as Markdown.

    Args:
        measured: a section with our own figures, "" to leave it out.
    """
    facts, trainer = entry.facts, entry.trainers[0].name
    parts = [
        f"# {entry.name}",
        _escaped(entry.idea),
        f"{_escaped(facts.citation)}.",
        f"- Networks: {facts.networks}\n- Predicts: {facts.predicts}\n"
        f"- Cost of a step: {facts.cost}, where 1 is a supervised step on the same patches; {facts.cost_detail}\n"
        f"- Needs: {_needs(entry)}",
        "## Use",
        f"```bash\nnnUNetv2_train DATASET CONFIGURATION FOLD -tr {PREFIX}{trainer}\n"
        f"{VARIABLE}='{_example(entry)}' nnUNetv2_train DATASET CONFIGURATION FOLD -tr {PREFIX}{trainer}\n```",
        "## Formulas",
        formula_text(entry.formula),
        "## Changes",
        "\n".join(f"- {change}" for change in facts.changes),
        "## Hyperparameters",
        _hyperparameter_table(entry.hyperparameters),
        _choices(entry),
        _published_step(entry) if entry.published_step else "",
        "## What to look at while it trains",
        _terms(facts),
        "## Published figures",
        _published(facts),
        measured,
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _needs(entry: Entry) -> str:
    if entry.method.reads_unlabeled():
        return ", ".join(entry.facts.needs) or "nothing beyond unlabeled scans"
    return ", ".join([*entry.facts.needs, "no unlabeled scans"])


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _example(entry: Entry) -> str:
    defaults = sorted(entry.method.hyperparameters().items(), key=lambda item: item[0] != "weight")
    return mapping_text(dict(defaults[:1]))


def _choices(entry: Entry) -> str:
    presets = []
    for name in entry.method.presets:
        chosen, values = entry.method.of_preset(name)
        of_its_own = "" if chosen is entry.method else "a step of its own, with "
        presets.append(f"- preset `{name}`: {of_its_own}" + (f"`{mapping_text(values)}`" if values else "the defaults"))
    variants = [f"- trainer `{PREFIX}{t.name}`: `{mapping_text(t.defaults)}`. {t.summary}" for t in entry.trainers[1:]]
    return "\n".join([*presets, *variants])


def _hyperparameter_table(parameters: Sequence[Hyperparameter]) -> str:
    rows = [
        (f"`{h.name}`", value_text(h.default), value_text(h.published), h.symbol, _escaped(h.meaning))
        for h in parameters
    ]
    return table(("name", "default", "published", "symbol", "meaning"), rows)


def _terms(facts: Facts) -> str:
    """The terms in the log and in progress.png."""
    rows = [(f"`{name}`", *map(_escaped, term)) for name, term in facts.terms.items()]
    return (
        "Mean of each epoch, in the log, in `progress.png` and, by class, in `per_class.png`; losses with their "
        "weight; some of a preset or a phase alone.\n\n" + table(("term", *Term._fields), rows)
    )


def _published_step(entry: Entry) -> str:
    """What the preset "published" does where its step is another one."""
    method = entry.published_step
    rows = [(f"`{h.name}`", value_text(h.default), h.symbol, _escaped(h.meaning)) for h in hyperparameters(method)]
    formula = formula_text(box(method)) if box(method) != entry.formula else ""  # a file may hold both steps
    parts = ["## As published", formula, table(("name", "published", "symbol", "meaning"), rows)]
    return "\n\n".join(filter(None, parts))


def _published(facts: Facts) -> str:
    if not facts.figures:
        return "None found for this method on a public medical data set."
    rows = [["" if cell is None else cell for cell in figure] for figure in facts.figures]
    return (
        "Other networks, protocols and test rules than nnU-Net's: compare within a source only. Distances in voxels "
        "where the source says.\n\n" + table(("data", "labels", "network", "Dice %", "HD95", "ASD", "source"), rows)
    )


def formula_text(docstring: str) -> str:
    """A docstring as Markdown: the indented formulas as they stand, the rest as text."""
    parts = []
    for indented, paragraphs in groupby(docstring.split("\n\n"), lambda paragraph: paragraph.startswith("    ")):
        text = "\n\n".join(paragraphs)
        parts.append(f"```text\n{textwrap.dedent(text)}\n```" if indented else _escaped(text))
    return "\n\n".join(parts)


def _escaped(text: str) -> str:
    """Plain text whose signs must not become Markdown; code between backticks stays."""
    return re.sub(r"(`[^`]*`)|([*_<\[])", lambda match: match[1] or "\\" + match[2], text)
