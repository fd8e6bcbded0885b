"""`nnunet_ssl methods`: the table of all trainers, and one method in full."""

import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from nnunet_ssl.cli.methods import methods
from nnunet_ssl.errors import InputError
from nnunet_ssl.listing import read_listing

TRAINERS = Path(__file__).resolve().parents[2] / "trainers"


@pytest.fixture
def command(monkeypatch):
    """Runs the verb on a wide terminal and returns its result."""
    monkeypatch.setenv("COLUMNS", "250")
    app = typer.Typer()
    app.command()(methods)
    return lambda *arguments: CliRunner().invoke(app, arguments)


def test_the_table_lists_every_trainer_with_a_method(command):
    done = command()
    assert done.exit_code == 0
    shown = {word for line in done.output.splitlines() for word in line.split()[:2]}
    names = {file.stem.removeprefix("nnUNetTrainer") for file in TRAINERS.glob("nnUNetTrainer*.py")}
    assert names - {"Supervised"} <= shown
    assert "Supervised" not in shown
    line = next(line for line in done.output.splitlines() if "MeanTeacher " in line)
    assert " m MeanTeacher " in line and " 1.17  " in line


def test_the_table_tells_what_to_begin_with_and_fits_80_columns(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = command().output.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[1] for line in lines if line.startswith("*") and "begin" not in line] == ["BCP"]
    listing = read_listing()
    for listed in listing:
        start = f"{'m' if listed.measured else ' '} {listed.trainers[0].name} "
        assert any(line[1:].startswith(start) for line in lines), start
    assert {bool(listed.measured) for listed in listing} == {True, False}


def test_the_table_needs_no_torch():
    code = (
        "import sys; from nnunet_ssl.cli.methods import methods; methods()\n"
        "assert not {'torch', 'nnunetv2', 'numpy', 'rich.markdown'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_one_method_in_full(command):
    done = command("nnunettrainermeanteacher")
    assert done.exit_code == 0
    rows = [line.split() for line in done.output.splitlines()]
    assert ["ema_decay", "0.99", "0.99", "alpha", "limit"] in [row[:5] for row in rows]
    assert "g <- alpha g + (1 - alpha) f" in done.output
    assert "arXiv:1703.01780" in done.output
    assert "nnUNetv2_train DATASET CONFIGURATION FOLD -tr nnUNetTrainerMeanTeacher" in done.output


def test_a_wrong_name_is_an_input_error_with_the_nearest_name(command):
    done = command("UAMTT")
    assert isinstance(done.exception, InputError)
    assert "Did you mean UAMT" in str(done.exception)
    assert "no page of its own" in str(command("Supervised").exception)
