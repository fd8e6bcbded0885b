"""What there is to choose from: every method with its trainers, formulas, hyperparameters, cost and citation.

Read from where it already stands: `trainers/`, the docstrings of `methods/`, the constructors, and `methods/facts.yaml`
for what code cannot tell.
"""

from __future__ import annotations

import difflib
import inspect
import pkgutil
import re
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from itertools import groupby
from typing import Any, NamedTuple

from nnunet_ssl import trainers
from nnunet_ssl.errors import InputError
from nnunet_ssl.facts import FACTS_FILE, Facts, mapping_text, read_facts, value_text
from nnunet_ssl.method import Method
from nnunet_ssl.training.settings import VARIABLE

PREFIX = "nnUNetTrainer"
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
class Trainer:
    """A trainer by its name after `nnUNetTrainer`, with the hyperparameters that it changes."""

    name: str
    summary: str
    defaults: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """A method and the trainers that train it, its plain one first."""

    method: type[Method]
    trainers: tuple[Trainer, ...]
    facts: Facts

    @property
    def name(self) -> str:
        return self.method.__name__

    @property
    def idea(self) -> str:
        """The first sentence of the class."""
        return " ".join(inspect.getdoc(self.method).split("\n\n", 1)[0].split())

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
    facts = read_facts()
    found: dict[type[Method], list[Trainer]] = {}
    for module in pkgutil.iter_modules(trainers.__path__):
        trainer = getattr(import_module(f"nnunet_ssl.trainers.{module.name}"), module.name)
        if trainer.method:
            name = module.name.removeprefix(PREFIX)
            found.setdefault(trainer.method, []).append(Trainer(name, inspect.getdoc(trainer), trainer.defaults))
    if missing := [method.__name__ for method in found if method.__name__ not in facts]:
        raise InputError(f"{FACTS_FILE} lacks {', '.join(missing)}: add paper, cost and the other fields.")
    if stray := sorted(facts.keys() - {method.__name__ for method in found}):
        raise InputError(f"{FACTS_FILE} has {', '.join(stray)}, which no trainer of trainers/ trains.")
    entries = []
    for method, its_trainers in found.items():
        its_trainers.sort(key=lambda trainer: (bool(trainer.defaults), trainer.name))
        entries.append(Entry(method, tuple(its_trainers), facts[method.__name__]))
    return sorted(entries, key=lambda entry: entry.name.lower())


def find_entry(entries: Sequence[Entry], name: str) -> Entry:
    """The method of a trainer, in any case, with or without `nnUNetTrainer` and hyphens.

    Raises:
        InputError: there is none; names the nearest.
    """
    known = {_plain(trainer.name): (trainer.name, entry) for entry in entries for trainer in entry.trainers}
    plain = _plain(name).removeprefix(PREFIX.lower())
    if plain in known:
        return known[plain][1]
    near = difflib.get_close_matches(plain, known, n=1)
    hint = f"Did you mean {known[near[0]][0]}?" if near else f"There are {', '.join(n for n, _ in known.values())}."
    raise InputError(f"There is no method {name!r}. {hint}")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


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
        f"- Needs: {', '.join(facts.needs) or 'nothing beyond unlabeled scans'}",
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
        "## Published figures",
        _published(facts),
        measured,
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


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
