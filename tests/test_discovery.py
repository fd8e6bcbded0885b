"""Stock nnU-Net finds the trainers in a fresh process, in both kinds of installation, and nothing stays behind."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TRAINERS = sorted(file.stem for file in (ROOT / "trainers").glob("nnUNetTrainer*.py"))
FIND = """
import multiprocessing, os, sys
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

def find(name):
    found = recursive_find_trainer_class_by_name(name)
    assert found.__name__ == name and issubclass(found, nnUNetTrainer)
    return found.file

if __name__ == "__main__":
    names = sys.argv[1:]
    for name in names:
        print("FOUND", find(name))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print("SPAWNED", pool.map(find, names[:1])[0])
"""


def clean_environment(**variables) -> dict:
    """As a user's: nothing set for us, and compiled files are written, so that uninstalling must remove them too."""
    ours = ("nnUNet_extTrainer", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
    return {key: value for key, value in os.environ.items() if key not in ours} | variables


def run(python, *arguments, cwd, **variables) -> str:
    done = subprocess.run(
        [str(python), *arguments], capture_output=True, encoding="utf-8", cwd=cwd, env=clean_environment(**variables)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """An environment of its own that borrows the installed dependencies, and the listing of its packages."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    (folder / "find.py").write_text(FIND, encoding="utf-8")
    return folder, python, packages


def listing(packages: Path) -> set[Path]:
    return {path for path in packages.rglob("*") if "pip" not in path.parts and "__pycache__" not in path.parts}


@pytest.mark.parametrize("editable", [False, True], ids=["wheel", "editable"])
def test_found_in_a_fresh_environment_and_gone_after_uninstall(environment, tmp_path, editable):
    folder, python, packages = environment
    before = listing(packages)
    options = ["--no-deps", "--no-build-isolation", "-q", *(["-e"] if editable else [])]
    run(python, "-m", "pip", "install", *options, str(ROOT), cwd=tmp_path)
    users = tmp_path / "mine"
    users.mkdir()
    (users / "nnUNetTrainerMine.py").write_text(
        "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n\n\n"
        "class nnUNetTrainerMine(nnUNetTrainer):\n    file = __file__\n",
        encoding="utf-8",
    )
    names = [*TRAINERS, "nnUNetTrainerMine"]
    output = run(python, folder / "find.py", *names, cwd=tmp_path, nnUNet_extTrainer=str(users))
    found = [Path(line.split(" ", 1)[1]) for line in output.splitlines() if line.startswith("FOUND")]
    assert [file.stem for file in found] == names
    ours = (ROOT / "trainers") if editable else (packages / "nnunet_ssl" / "trainers")
    assert {file.parent.resolve() for file in found[:-1]} == {ours.resolve()}
    assert any(line.startswith("SPAWNED") for line in output.splitlines())
    assert not (packages / "trainers").exists() and not (packages / "dataset_conversion").exists()
    run(python, "-c", "import nnunet_ssl.dataset_conversion.la", cwd=tmp_path)

    run(python, "-m", "pip", "uninstall", "-y", "-q", "nnunet-ssl", cwd=tmp_path)
    assert listing(packages) == before
    assert not list(packages.glob("*nnunet_ssl*"))


def test_the_variable_is_appended_to_once_and_nested_processes_agree(tmp_path):
    code = "import os, subprocess, sys; print(os.environ['nnUNet_extTrainer'])"
    nested = (
        code
        + "; sys.stdout.flush(); subprocess.run([sys.executable, '-c', 'import os; "
        + ('print(os.environ["nnUNet_extTrainer"])' + "'])")
    )
    outer, inner = run(sys.executable, "-c", nested, cwd=tmp_path, nnUNet_extTrainer="/users/own").split()
    assert outer == inner
    assert outer.split(os.pathsep)[0] == "/users/own"
    assert len(outer.split(os.pathsep)) == 2


def test_importing_our_trainers_is_cheap(tmp_path):
    """Beyond what nnU-Net imports anyway, and needs while it trains, ours brings no package."""
    code = (
        "import sys, nnunetv2.run.run_training; import nnunetv2.inference.predict_from_raw_data\n"
        "before = set(sys.modules); import nnunet_ssl.training.trainer, nnunet_ssl.methods.ua_mt\n"
        "print(*{name.split('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)"
    )
    new = set(run(sys.executable, "-c", code, cwd=tmp_path).split())
    assert "nnunet_ssl" in new
    assert new <= {"nnunet_ssl", "nnunetv2", "batchgeneratorsv2", "matplotlib", "PIL", "yaml"}


def test_every_trainer_file_holds_one_class_named_as_the_file():
    for file in (ROOT / "trainers").glob("*.py"):
        lines = file.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= 12, file
        assert [line for line in lines if line.startswith("class ")][0].startswith(f"class {file.stem}(")
