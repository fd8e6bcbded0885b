"""What this package takes for granted in nnU-Net and the libraries below it, although nobody has promised it.

Each test of this folder is one such assumption: its docstring says what of ours rests on it. When a new nnU-Net comes,
raise the bounds in `pyproject.toml`, run `pytest tests/nnunet_assumptions`, and what fails is the list of work; then
write the new versions here. The files follow the rooms of the package:

    loop           training/: nnU-Net's trainer and its loop
    checkpoints    training/, results/: what is saved and logged, `nnUNetv2_train` and what it loads
    batches        data/, training/workers.py: cases, patches, transforms, loader processes
    networks       networks/, methods/, losses/: nnU-Net's U-Nets, torch
    prediction     training/pseudo_labels.py, results/, runner/: predictor, labels, measures
    preparation    preparation/, data/, conversion/: plans, readers, preprocessing, folds
"""

import ast
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

if sys.version_info < (3, 11):
    pytest.skip("tomllib is there from Python 3.11 on", allow_module_level=True)
import tomllib

WRITTEN_FOR = {
    "nnunetv2": "2.8.1",
    "batchgenerators": "0.25.5",
    "batchgeneratorsv2": "0.3.6",
    "acvl-utils": "0.2.6",
    "dynamic-network-architectures": "0.4.4",
    "torch": "2.14.1",
}
ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
BOUNDS = {found.name: found.specifier for found in map(Requirement, PROJECT["dependencies"])}


@pytest.mark.parametrize("library", WRITTEN_FOR)
def test_bounds_hold_the_versions_that_this_list_was_written_for(library):
    assert WRITTEN_FOR[library] in BOUNDS[library], f"{library} {BOUNDS[library]}: go through this folder anew"
    assert version(library) in BOUNDS[library], f"{library} {version(library)} is not what pyproject.toml asks for"


def test_a_next_minor_version_of_nnunet_needs_new_bounds():
    """nnU-Net changes its inside with minor versions: nobody gets the next one before this list was gone through."""
    major, minor, _ = WRITTEN_FOR["nnunetv2"].split(".")
    assert f"{major}.{int(minor) + 1}.0" not in BOUNDS["nnunetv2"]


def imported() -> dict[tuple[str, str], str]:
    """The names that our code imports of these libraries, wherever that stands, each with one of our files."""
    found = {}
    packages = {name.replace("-", "_") for name in WRITTEN_FOR}
    for folder in ("nnunet_ssl", "trainers", "dataset_conversion", "benchmarks"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in packages:
                    found |= {(node.module, alias.name): str(file.relative_to(ROOT)) for alias in node.names}
    return found


@pytest.mark.parametrize(("module", "name"), sorted(imported()))
def test_what_is_imported_is_there(module, name):
    """Half of these imports stand within functions: they would fail in the midst of a command."""
    loaded = import_module(module)
    if not hasattr(loaded, name):
        import_module(f"{module}.{name}")
