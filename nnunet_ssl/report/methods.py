"""What the report tells of methods: name, idea and paper by trainer, read from the sources.

They are parsed, not imported: PyTorch takes longer to import than all the rest of a page.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import NamedTuple

import nnunet_ssl
from nnunet_ssl._bootstrap import trainers_folder
from nnunet_ssl.facts import read_facts

PREFIX = "nnUNetTrainer"


class ListedMethod(NamedTuple):
    """A method as a page names it; `paper` is short, `citation` full."""

    name: str
    idea: str
    paper: str
    citation: str


def read_methods() -> dict[str, ListedMethod]:
    """Every method that a trainer states, by the trainer's name without its prefix."""
    facts, sources = read_facts(), Path(nnunet_ssl.__file__).parent / "methods"
    found = {}
    for file in sorted(Path(trainers_folder()).glob(f"{PREFIX}*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        modules = {
            alias.name: statement.module
            for statement in tree.body
            if isinstance(statement, ast.ImportFrom)
            for alias in statement.names
        }
        name = next((method for node in tree.body if (method := _method_of(node))), None)
        if name:
            source = sources / f"{modules[name].rpartition('.')[2]}.py"
            paper = facts[name]
            found[file.stem.removeprefix(PREFIX)] = ListedMethod(name, _idea(source, name), paper.paper, paper.citation)
    return found


def _method_of(node: ast.stmt) -> str | None:
    """The name after `method =` in a class."""
    for statement in node.body if isinstance(node, ast.ClassDef) else ():
        if (
            isinstance(statement, ast.Assign)
            and getattr(statement.targets[0], "id", "") == "method"
            and isinstance(statement.value, ast.Name)
        ):
            return statement.value.id
    return None


def _idea(source: Path, name: str) -> str:
    """The first sentence of a class."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    docstring = next(ast.get_docstring(n) for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)
    return " ".join((docstring or "").split("\n\n", 1)[0].split())
