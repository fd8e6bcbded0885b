"""What a release holds: the wheel has the package and both folders and nothing else, and there is one version."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import nnunet_ssl

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """The wheel and the source archive, built by the backend that `pip` and `python -m build` call."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    [wheel], [source] = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, source


def files(folder: str) -> set[str]:
    """The files of a folder of the checkout, without what running leaves."""
    found = (path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix() for path in found}


def test_the_wheel_holds_the_package_and_both_folders_and_nothing_of_tests_and_benchmarks(archives):
    with zipfile.ZipFile(archives[0]) as archive:
        names = set(archive.namelist())
    about = f"nnunet_ssl-{nnunet_ssl.__version__}.dist-info/"
    inside = {f"nnunet_ssl/{name}" for name in files("trainers") | files("dataset_conversion")}
    assert {name for name in names if not name.startswith(about)} == files("nnunet_ssl") | inside | {"nnunet_ssl.pth"}
    assert {f"{about}{name}" for name in ("METADATA", "entry_points.txt", "licenses/LICENSE")} < names


def test_the_source_archive_can_be_tested_and_leaves_records_out(archives):
    with tarfile.open(archives[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"README.md", "CHANGELOG.md", "hatch_build.py", "tests/test_release.py", "docs/road.md"}
    assert wanted < names
    assert [name for name in names if name.startswith((".ci", "benchmarks/results", "benchmarks/timing"))] == []


def test_there_is_one_version(archives):
    version = nnunet_ssl.__version__
    with zipfile.ZipFile(archives[0]) as archive:
        metadata = archive.read(f"nnunet_ssl-{version}.dist-info/METADATA").decode()
    assert f"\nVersion: {version}\n" in metadata
    assert f"\n## {version}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
