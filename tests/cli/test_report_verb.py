"""`nnunet_ssl report`: arguments, the line it prints, and its errors."""

import json

import pytest
import typer
from typer.testing import CliRunner

from nnunet_ssl.cli.report import report
from nnunet_ssl.errors import InputError


@pytest.fixture
def command():
    app = typer.Typer()
    app.command()(report)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


def write_record(folder, method, seed, dice):
    metric = {"mean": dice, "per_class": {"heart": dice}, "per_case": {case: {"heart": dice} for case in "ab"}}
    record = {
        "suite": "tiny", "method": method, "preset": "default", "labeled": 4, "seed": seed, "device": "cpu",
        "iterations": 10, "wall_seconds": 5, "peak_memory_mb": None, "commit": None, "versions": {}, "command": "",
        "metrics": dict.fromkeys(("dice", "jaccard", "hd95_mm", "asd_mm"), metric),
    }  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / f"{method}{seed}.json").write_text(json.dumps(record), encoding="utf-8")


def test_records_of_several_folders_make_one_page(command, tmp_path):
    write_record(tmp_path / "one", "supervised", 0, 0.5)
    write_record(tmp_path / "two", "UAMT", 0, 0.6)
    done = command(tmp_path / "one", tmp_path / "two", "-o", tmp_path / "page")
    assert done.exit_code == 0, done.output
    page = tmp_path / "page" / "index.html"
    assert done.output.strip() == str(page)
    assert "UAMT" in page.read_text(encoding="utf-8")


def test_errors(command, tmp_path):
    assert command().exit_code == 2
    done = command(tmp_path, "-o", tmp_path / "page")
    assert isinstance(done.exception, InputError) and "No accuracy record" in str(done.exception)
    assert not (tmp_path / "page").exists()
