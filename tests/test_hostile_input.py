"""What hostile files and arguments do to every verb and to the set-up of a training: a refusal in a line, or nothing.

Each case spoils one file of a small world, gives a command and looks at what is left: no traceback, an exit status
that is not 0, a message of one or two lines that names the file, and not one file written or changed.
"""

import contextlib
import io
import os
import re
import shutil
import stat
import subprocess
import sys
from collections import Counter
from pathlib import Path

import hostile
import pytest
import torch
from hostile.spoil import DEEP, Hostile
from hostile.world import BASE, PLANS, build, few_published
from matplotlib.figure import Figure
from workbench import InProcess

from nnunet_ssl import cli
from nnunet_ssl.conversion import protocols
from nnunet_ssl.demo import pipeline
from nnunet_ssl.errors import InputError
from nnunet_ssl.runner import local

ROOT = Path(__file__).resolve().parents[1]
PREFIX = "nnunet_ssl: "


class World:
    """A folder that is brought back to its first state after each case."""

    def __init__(self, pristine: Path, root: Path):
        self.pristine, self.root = pristine, shutil.copytree(pristine, root, symlinks=True)
        self.first = self.state()

    def state(self) -> dict[str, tuple]:
        """Kind, size and time of every file and folder below the root."""
        found = {}
        for folder, folders, files in os.walk(self.root):
            for name in (*folders, *files):
                path = f"{folder}/{name}"
                info = os.lstat(path)
                is_folder = stat.S_ISDIR(info.st_mode)
                found[path] = (stat.S_IFMT(info.st_mode), *(() if is_folder else (info.st_size, info.st_mtime_ns)))
        return found

    def restore(self) -> None:
        now = self.state()
        for path in sorted(now):
            if now[path] != self.first.get(path) and os.path.lexists(path):
                shutil.rmtree(path) if stat.S_ISDIR(now[path][0]) else os.unlink(path)
        for path in sorted(self.first):
            if not os.path.lexists(path):
                source = self.pristine / Path(path).relative_to(self.root)
                Path(path).mkdir() if source.is_dir() else shutil.copy2(source, path)


@pytest.fixture(scope="module")
def world(phantom_3d, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    shutil.copytree(phantom_3d.root, folder / "pristine")
    build(folder / "pristine")
    return World(folder / "pristine", folder / "world")


@pytest.fixture
def tame(monkeypatch, tmp_path):
    """No worker processes, no trainings, small pictures, three scans to a published list."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.delenv("nnUNet_ssl_config", raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("nnunet_ssl.pools.ProcessPoolExecutor", InProcess)
    monkeypatch.setattr(local, "run_local", lambda experiment, runs, gpus: [])
    few = {name: few_published(name) for name in ("la", "acdc", "synapse", "amos", "lits", "msd", "pancreas")}
    monkeypatch.setattr(protocols, "published", few.get)
    monkeypatch.setattr(Figure, "savefig", lambda figure, stream, **options: None)
    monkeypatch.setattr(pipeline.Steps, "command", lambda *arguments, **options: pytest.fail("the demo has begun"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")


def command(arguments: list[str]) -> tuple[int, str]:
    """Exit status and stderr of the command, through its entry point; what it does not catch itself is not caught."""
    error = io.StringIO()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["nnunet_ssl", *arguments])
        with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), "utf-8")):
            try:
                cli.main()
            except SystemExit as end:
                return end.code or 0, error.getvalue()
    return 0, error.getvalue()


def set_up_training(plans: str) -> tuple[int, str]:
    """The part of `nnUNetv2_train` that reads files of the user's, with the error that it ends with."""
    from nnunetv2.run.run_training import get_trainer_from_args

    with contextlib.redirect_stdout(io.StringIO()):
        try:
            arguments = ("7", "3d_fullres", 0, "nnUNetTrainerMeanTeacher", plans, False, torch.device("cpu"))
            trainer = get_trainer_from_args(*arguments)
            trainer.initialize()
            trainer.get_dataloaders()
        except InputError as error:
            return 1, f"{PREFIX}{error}\n"
    return 0, ""


def fault_of(world: World, case: Hostile) -> tuple[str, str]:
    """How a case ended, "refused" or "worked", and what is wrong with that."""
    arguments = [argument.replace("{root}", str(world.root)) for argument in case.arguments]
    file = world.root / case.file
    with pytest.MonkeyPatch.context() as patched:
        for kind in ("raw", "preprocessed", "results"):
            patched.setenv(f"nnUNet_{kind}", str(world.root / kind))
        for name, value in case.environment:
            patched.setenv(name, value.replace("{root}", str(world.root)))
        if case.spoil:
            case.spoil(file)
        before = world.state()
        try:
            status, message = set_up_training(PLANS) if arguments == ["train"] else command(arguments)
        except Exception as error:  # noqa: BLE001 (what a user would see as a traceback)
            world.restore()
            return "failed", f"{type(error).__name__}: {str(error)[:300]}"
        after = world.state()
    world.restore()
    written = [path for path in {*before, *after} if before.get(path) != after.get(path)]
    outside = [path for path in written if "/outside" in path] + os.listdir()
    if outside:
        return "failed", f"written outside: {outside}"
    if status == 0:
        return "worked", "" if case.fine is not False else "not refused"
    if case.fine:
        return "refused", f"refused: {message[-500:]}"
    if case.arguments[0] == "check" and PREFIX not in message:
        return "refused", ""  # what is wrong with a scan is a finding, listed with all others
    said = message.rpartition(PREFIX)[2].rstrip("\n") if PREFIX in message else ""
    told = file.name if case.told is None else case.told
    if not said:
        return "refused", f"no message: {message[-300:]}"
    if said.count("\n") > 1 or re.search(r"[\x00-\x09\x0b-\x1f\x7f]", said) or len(said) > 1500 + 4 * len(str(file)):
        return "refused", f"more than two lines, or odd characters: {said[:500]}"
    if told not in said:
        return "refused", f"does not name {told}: {said[:500]}"
    half = [path for path in written if "_3d_fullres_unlabeled" not in path and "nnUNetTrainer" not in path]
    if half or any(path.endswith((".partial", "unlabeled.json")) and path in after for path in written):
        return "refused", f"half done: {sorted(written)[:5]}"
    return "refused", ""


def attack(world: World, cases: list[Hostile]) -> Counter:
    """Lets all loose; fails with all that went wrong."""
    outcomes, faults = Counter(), []
    for case in cases:
        outcome, fault = fault_of(world, case)
        outcomes["worked and had to" if case.fine else f"{outcome}, harmless" if outcome == "worked" else outcome] += 1
        faults += [f"{case.name}: {outcome}: {fault}"] if fault else []
    print(f"{len(cases)} cases: {dict(outcomes)}")
    assert not faults, f"{len(faults)} of {len(cases)}:\n" + "\n".join(faults)
    return outcomes


def test_hostile_input(world, tame):
    """One in six of all cases, of each kind."""
    outcomes = attack(world, hostile.all_cases(world.root)[::6])
    assert outcomes["refused"] >= 200


@pytest.mark.long
def test_all_hostile_input(world, tame):
    outcomes = attack(world, hostile.all_cases(world.root))
    assert outcomes["refused"] >= 1400


def test_the_installed_command_refuses_in_a_line(world, tmp_path):
    splits = world.root / BASE / "splits_final.json"
    splits.write_text(DEEP, encoding="utf-8")
    variables = {f"nnUNet_{kind}": str(world.root / kind) for kind in ("raw", "preprocessed", "results")}
    done = subprocess.run(
        [Path(sys.executable).parent / "nnunet_ssl", "split", "-d", "7", "--folds", "2"],
        capture_output=True, encoding="utf-8", cwd=tmp_path, env={"PATH": ""} | variables,
    )  # fmt: skip
    world.restore()
    assert done.returncode == 1
    assert done.stderr.startswith(f"nnunet_ssl: {splits} is not valid JSON")
    assert done.stderr.count("\n") == 1


# what may open files that can hold more than data, and why
ALLOWED = {
    ("settings.py", "yaml.load"),  # with a loader that is stricter than yaml.safe_load
    ("facts.py", "yaml.load"),  # of the package's own files, with yaml.safe_load's loader or libyaml's twin of it
    ("pool.py", "np.load"),  # without allow_pickle
    ("checkpoints.py", "torch.load"),  # with weights_only
}
UNSAFE = re.compile(r"(?<![\w.])(?:yaml\.(?:unsafe_|full_)?load|pickle\.loads?|torch\.load|np\.load|eval|exec)(?=\()")


def test_files_are_read_as_data():
    found = set()
    for folder in ("nnunet_ssl", "dataset_conversion", "trainers"):
        for file in (ROOT / folder).rglob("*.py"):
            found |= {(file.name, match[0]) for match in UNSAFE.finditer(file.read_text(encoding="utf-8"))}
    assert found <= ALLOWED
    text = (ROOT / "nnunet_ssl" / "checkpoints.py").read_text(encoding="utf-8")
    assert text.count("torch.load(") == text.count("weights_only=True") == 1
