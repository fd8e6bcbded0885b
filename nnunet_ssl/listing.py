"""The trainers and their methods by name, read off the files: importing them would take torch's seconds."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from functools import cache
from inspect import cleandoc
from pathlib import Path
from typing import Any

from nnunet_ssl._bootstrap import trainers_folder
from nnunet_ssl.errors import InputError
from nnunet_ssl.facts import FACTS_FILE, Facts, read_facts, read_yaml
from nnunet_ssl.names import plain, suggestion

PREFIX = "nnUNetTrainer"
BASELINE = "Supervised"


@dataclass(frozen=True)
class Trainer:
    """A trainer by its name after `nnUNetTrainer`, with the hyperparameters that it changes."""

    name: str
    summary: str
    defaults: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Listed:
    """A method and the trainers that train it, its plain one first.

    Attributes:
        name: of the method's class.
        module: that the class is in.
        idea: the first sentence of the class.
        measured: suites of `benchmarks/accuracy.py` that there are records of.
    """

    name: str
    module: str
    idea: str
    facts: Facts
    trainers: tuple[Trainer, ...]
    measured: tuple[str, ...] = ()


def read_listing() -> list[Listed]:
    """Every method that a trainer of the folder `trainers/` states, by name.

    Raises:
        InputError: a method has no facts, or the facts no trainer.
    """
    facts, measured = read_facts(), read_yaml("measured.yaml")
    found: dict[tuple[str, str], list[Trainer]] = {}
    for name in trainer_names():
        if method := _method_of(name):
            found.setdefault(method[:2], []).append(method[2])
    methods = {name for name, _ in found}
    if missing := sorted(methods - facts.keys()):
        raise InputError(f"{FACTS_FILE} lacks {', '.join(missing)}: add paper, cost and the other fields.")
    if stray := sorted(facts.keys() - methods):
        raise InputError(f"{FACTS_FILE} has {', '.join(stray)}, which no trainer of trainers/ trains.")
    listed = []
    for (name, module), trainers in found.items():
        trainers.sort(key=lambda trainer: (bool(trainer.defaults), trainer.name))
        suites = tuple(measured.get(name, ()))
        listed.append(Listed(name, module, _idea(name, module), facts[name], tuple(trainers), suites))
    return sorted(listed, key=lambda each: each.name.lower())


@cache
def trainer_names() -> tuple[str, ...]:
    """Of all our trainers, the baseline included, after `nnUNetTrainer`."""
    return tuple(sorted(file.stem.removeprefix(PREFIX) for file in Path(trainers_folder()).glob(f"{PREFIX}*.py")))


def find_trainer(name: str) -> str:
    """One of `trainer_names`, whatever its case, with or without `nnUNetTrainer` and hyphens.

    Raises:
        InputError: there is none; names the nearest and all.
    """
    known = {plain(each): each for each in trainer_names()}
    if (wanted := plain(name).removeprefix(plain(PREFIX))) not in known:
        raise InputError(f"There is no method {name[:60]!r}. {suggestion(wanted, known.values())}")
    return known[wanted]


def full_name(name: str) -> str:
    """The class of a trainer that the user may have named without `nnUNetTrainer` or in another case.

    A name that none of ours has is that of the user's own trainer, or wrong: whoever looks for it says so.
    """
    wanted = plain(name).removeprefix(plain(PREFIX))
    ours = next((each for each in trainer_names() if plain(each) == wanted), None)
    return PREFIX + (name.removeprefix(PREFIX) if ours is None else ours)


def _method_of(trainer: str) -> tuple[str, str, Trainer] | None:
    """Class and module of the method that a trainer's file states, and the trainer; None for the baseline."""
    tree = ast.parse((Path(trainers_folder()) / f"{PREFIX}{trainer}.py").read_text(encoding="utf-8"))
    modules = {
        alias.name: node.module for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    (statement,) = (node for node in tree.body if isinstance(node, ast.ClassDef))
    stated = {node.targets[0].id: node.value for node in statement.body if isinstance(node, ast.Assign)}
    if "method" not in stated:
        return None
    defaults = ast.literal_eval(stated["defaults"]) if "defaults" in stated else {}
    name = stated["method"].id
    return name, modules[name], Trainer(trainer, ast.get_docstring(statement) or "", defaults)


def _idea(name: str, module: str) -> str:
    """The first sentence of a method's class, from its file."""
    text = (Path(__file__).parent / "methods" / f"{module.rpartition('.')[2]}.py").read_text(encoding="utf-8")
    _, _, after = text.partition(f"\nclass {name}(")
    docstring = after.partition('"""')[2].partition('"""')[0]
    return " ".join(cleandoc(docstring).split("\n\n", 1)[0].split())
