"""The tests' own house: what two of them share stands in a conftest or in a module named by what it holds."""

import ast
from pathlib import Path

TESTS = Path(__file__).resolve().parent


def imported(file: Path) -> set[str]:
    """All dotted names that a file imports, from where and what: `from a.b import c` gives a.b and a.b.c."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = node.module or ""
            names |= {start} | {f"{start}.{alias.name}".lstrip(".") for alias in node.names}
    return names


def test_no_file_imports_a_test():
    files = sorted(TESTS.rglob("*.py"))
    tests = {file.stem for file in files if file.name.startswith("test_")}
    found = {
        f"{file.relative_to(TESTS)} imports {name}"
        for file in files
        for name in imported(file)
        if tests & set(name.split("."))
    }
    assert len(tests) > 100 and not found, sorted(found)


def test_an_import_of_a_test_is_seen_in_each_form(tmp_path):
    file = tmp_path / "a.py"
    for line in (
        "import methods.test_a",
        "from methods.test_a import X",
        "from methods import test_a",
        "from . import test_a",
    ):
        file.write_text(f"def late():\n    {line}\n", encoding="utf-8")
        assert any("test_a" in name.split(".") for name in imported(file)), line
