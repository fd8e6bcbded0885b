"""What the package imports is what it declares."""

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

if sys.version_info < (3, 11):
    pytest.skip("tomllib is there from Python 3.11 on", allow_module_level=True)
import tomllib

ROOT = Path(__file__).resolve().parents[1]
OWN = {"nnunet_ssl"}


def imported(folder: Path) -> dict[str, str]:
    """Top-level modules that the files of a folder import, each with one of the files."""
    found = {}
    for file in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            found |= {name.partition(".")[0]: str(file.relative_to(ROOT)) for name in names}
    return found


def declared(requirements: list[str]) -> set[str]:
    return {re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-") for requirement in requirements}


def test_every_import_is_a_declared_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [requirement for extra in project["optional-dependencies"].values() for requirement in extra]
    known = declared(project["dependencies"] + extras)
    distributions = packages_distributions()
    missing = {}
    for folder in ("nnunet_ssl", "trainers", "dataset_conversion"):
        for module, file in imported(ROOT / folder).items():
            if module in sys.stdlib_module_names or module in OWN:
                continue
            names = {name.lower().replace("_", "-") for name in distributions.get(module, [module])}
            if not names & known:
                missing[module] = f"{file} imports {module} of {', '.join(sorted(names))}"
    assert not missing, sorted(missing.values())
