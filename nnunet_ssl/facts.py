"""What code cannot tell about the methods: the entries of `methods/facts.yaml`, whose head explains the fields."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from nnunet_ssl.errors import InputError

FACTS_FILE = "nnunet_ssl/methods/facts.yaml"
STUDENT = "student"
PREDICTS = (STUDENT, "first network", "teacher", "mean of both")
PASSES = {"learn": 1 / 2, "look": 1 / 6, "trace": 1 / 3}  # cost of a batch; a backward is two forwards: input, weights


class Figure(NamedTuple):
    """A published result: Dice in %, distances in the unit of the source."""

    data: str
    labels: str
    network: str | None
    dice: float
    hd95: float | None
    asd: float | None
    source: str


class Pass(NamedTuple):
    """Forwards of a network, over so many batches of patches."""

    kind: str
    network: str
    batches: int

    @property
    def cost(self) -> float:
        """In supervised steps on both kinds of patches, if the network is as large as the plan's."""
        return PASSES[self.kind] * self.batches


class Term(NamedTuple):
    """What a name in the log and in progress.png stands for, and what it looks like."""

    meaning: str
    range: str
    healthy: str
    broken: str


COMMON_TERMS = "terms.yaml"
OF_EVERY_METHOD = "predicted_share"  # which the trainer logs
ROWS = {"passes": Pass, "figures": Figure}


@dataclass(frozen=True)
class Trial:
    """What the tests of all methods are told of one: hyperparameters, and whether it pairs patches of one GPU."""

    silent: dict[str, Any] | None
    quiet: dict[str, Any] = field(default_factory=dict)
    tiny: dict[str, Any] = field(default_factory=dict)
    pairs: bool = False


@dataclass(frozen=True)
class Facts:
    """The entry of a method."""

    title: str
    authors: str
    venue: str
    year: int
    networks: str
    predicts: str
    passes: list[Pass]
    cost: str
    cost_detail: str
    changes: list[str]
    figures: list[Figure]
    tests: Trial
    terms: dict[str, Term] = field(default_factory=dict)
    needs: list[str] = field(default_factory=list)
    doi: str = ""
    arxiv: str = ""
    first: bool = False

    @property
    def citation(self) -> str:
        """Authors, title, venue, year and identifiers in one line."""
        identifiers = [f"doi:{self.doi}" if self.doi else "", f"arXiv:{self.arxiv}" if self.arxiv else ""]
        return ", ".join([f"{self.authors}: {self.title}", f"{self.venue} {self.year}", *filter(None, identifiers)])

    @property
    def paper(self) -> str:
        """First author, venue and year."""
        names = re.split(r", | and ", self.authors)
        first = names[0].rsplit(". ", 1)[-1]
        who = first if len(names) == 1 else " and ".join([first, names[1].rsplit(". ", 1)[-1]])
        return f"{who if len(names) < 3 else f'{first} et al.'}, {self.venue} {self.year}"


def read_facts() -> dict[str, Facts]:
    """The entries by name of the method's class.

    Raises:
        InputError: an entry lacks a field, or has one that is unknown or has a value that is.
    """
    content, common = read_yaml("facts.yaml"), read_yaml(COMMON_TERMS)
    return {name: facts_from(name, entry, common) for name, entry in content.items()}


def read_yaml(file: str) -> dict[str, Any]:
    """A file of `methods/`, by libyaml where PyYAML was built with it: that is ten times as fast."""
    text = (Path(__file__).parent / "methods" / file).read_text(encoding="utf-8")
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def facts_from(name: str, entry: Mapping[str, Any], common: Mapping[str, list[str]] | None = None) -> Facts:
    """The facts of a method from its entry as it stands in the file.

    Args:
        common: explanations of the terms that several methods log, by name; read from their file if None.

    Raises:
        InputError: a field is missing, unknown or has an unknown value.
    """
    where = f"{FACTS_FILE}, {name}"
    _check_fields(Facts, entry, where)
    _check_fields(Trial, entry["tests"], f"{where}, tests")
    for rows, kind in ROWS.items():
        if wrong := [row for row in entry[rows] if len(row) != len(kind._fields)]:
            raise InputError(f"{where}: {rows} has {wrong[0]}, which is not [{', '.join(kind._fields)}].")
    passes, figures = ([kind(*row) for row in entry[rows]] for rows, kind in ROWS.items())
    if unknown := {each.kind for each in passes} - set(PASSES):
        raise InputError(f"{where}: passes of kind {', '.join(sorted(unknown))}: there are {', '.join(PASSES)}.")
    if entry["predicts"] not in PREDICTS:
        raise InputError(f"{where}: predicts is {entry['predicts']!r}, not one of: {', '.join(PREDICTS)}.")
    terms = _terms(entry.get("terms", {}), read_yaml(COMMON_TERMS) if common is None else common, where)
    known = {"passes": passes, "figures": figures, "tests": Trial(**entry["tests"]), "terms": terms}
    return Facts(**{**entry, **known})


def _terms(named: Mapping[str, list[str] | None], common: Mapping[str, list[str]], where: str) -> dict[str, Term]:
    """What a method logs by name, with the explanation of its own or the common one; what all log comes last."""
    found = {}
    for name, own in {**named, OF_EVERY_METHOD: None}.items():
        explained = common.get(name) if own is None else own
        if explained is None or len(explained) != len(Term._fields):
            raise InputError(f"{where}: terms has {name} without its {', '.join(Term._fields)}, here or in terms.yaml.")
        found[name] = Term(*map(str, explained))
    return found


def _check_fields(kind: type, entry: Mapping[str, Any], where: str) -> None:
    needed = [each.name for each in fields(kind) if each.default is MISSING and each.default_factory is MISSING]
    if missing := [name for name in needed if name not in entry]:
        raise InputError(f"{where}: lacks {', '.join(missing)}; the head of the file says what these are.")
    if unknown := sorted(set(entry) - {each.name for each in fields(kind)}):
        raise InputError(f"{where}: unknown {', '.join(unknown)}; the head of the file lists the fields.")


def value_text(value: Any) -> str:
    """A value as it is written in `nnUNet_ssl_config`, "" for none."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def mapping_text(values: dict[str, Any]) -> str:
    """Hyperparameters as they are written in `nnUNet_ssl_config`."""
    return "{" + ", ".join(f"{name}: {value_text(value)}" for name, value in values.items()) + "}"
