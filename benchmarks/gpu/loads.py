"""Loads for a machine without a network: what goes into them, how they are filled, and how they are taken in again.

    python3 benchmarks/gpu/loads.py missing RESOLVED.json MACHINE.txt
    python3 benchmarks/gpu/loads.py fill OUT WHEELS DATA

The standard library alone, as nothing else is there when the first load comes.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

MIB = 2**20
CALL = 64 * MIB  # that a call carries, the checkout included
LARGEST = 60 * MIB  # of a load
LEAST = 51 * MIB  # SimpleITK's wheel
MARGIN = 2 * MIB  # of a call, for what the checkout gains meanwhile
# for compressed TIFF alone, for Python 2, and what the checkout installs itself
LEFT_OUT = {"imagecodecs", "argparse", "nnunet-ssl"}
MANIFEST, CONTENT = "load.json", "files.tar"


class LoadError(Exception):
    """What is wrong with a load, in a line."""


def missing(resolved: Path, machine: Path) -> Iterator[str]:
    """Requirements, each with its version, of all that pip has chosen and the machine lacks.

    Args:
        resolved: the report of `pip install --dry-run`.
        machine: names of what is there, with a version where it is known.
    """
    there = {normal(re.split("[=#]", line)[0]) for line in machine.read_text(encoding="utf-8").splitlines()}
    for package in json.loads(resolved.read_text(encoding="utf-8"))["install"]:
        name, version = normal(package["metadata"]["name"]), package["metadata"]["version"]
        if name not in there | LEFT_OUT:
            yield f"{name}=={version}"


def normal(name: str) -> str:
    """A package's name as the registry compares it."""
    return re.sub(r"[-_.]+", "-", name).strip().lower()


def files_of(wheels: Path, data: Path) -> dict[str, Path]:
    """All files by their place in the machine's folder, in the order in which they are wanted."""
    la, acdc = data / "la", data / "acdc"
    files = {f"wheels/{file.name}": file for file in sorted(wheels.glob("*.whl"))}
    for source, pattern in (
        (la, "*.list"),
        (la / "2018LA_Seg_Training Set", "*/*.h5"),
        (acdc, "*.list"),
        (acdc / "data", "*.h5"),
    ):
        found = {f"data/{file.relative_to(data)}": file for file in sorted(source.glob(pattern))}
        if not found:
            raise LoadError(f"{source} has no {pattern}.")
        files |= found
    return files


def divide(files: dict[str, Path], room: int) -> list[list[str]]:
    """The files in loads that are at most so large as tar has them: each into the first that has room for it.

    Raises:
        LoadError: a file is larger than a load.
    """
    loads: list[tuple[int, list[str]]] = []
    for name, file in files.items():
        size = 512 + -(-file.stat().st_size // 512) * 512 + (1024 if len(name) > 99 else 0)
        if size > room - 10240:
            raise LoadError(f"{name} has {size / MIB:.1f} MiB: a load has {room / MIB:.1f}.")
        for place, (used, names) in enumerate(loads):
            if used + size <= room:
                loads[place] = (used + size, [*names, name])
                break
        else:
            loads.append((10240 + size, [name]))  # tar's end
    return [names for _, names in loads]


def fill(out: Path, files: dict[str, Path], room: int) -> list[Path]:
    """Writes `out`/load_1, load_2 ..., and returns them."""
    loads = divide(files, room)
    made = []
    for number, names in enumerate(loads, 1):
        folder = out / f"load_{number}"
        folder.mkdir(parents=True)
        with tarfile.open(folder / CONTENT, "w", format=tarfile.GNU_FORMAT) as archive:
            for name in names:
                archive.add(files[name], name)
        content = {"number": number, "of": len(loads), "files": {name: digest(files[name]) for name in names}}
        (folder / MANIFEST).write_text(json.dumps(content), encoding="utf-8")
        made.append(folder)
    return made


def take(load: Path, state: Path) -> tuple[int, int]:
    """Unpacks a load into `state` and compares every file with its sum; returns its number and how many there are.

    Raises:
        LoadError: a file is missing or differs.
    """
    content = json.loads((load / MANIFEST).read_text(encoding="utf-8"))
    state.mkdir(parents=True, exist_ok=True)
    with tarfile.open(load / CONTENT) as archive:
        archive.extractall(state, filter="data")
    for name, expected in content["files"].items():
        if not (state / name).is_file() or digest(state / name) != expected:
            raise LoadError(f"{name} of {load} did not arrive whole: take it again.")
    (state / f"{load.name}.json").write_text(json.dumps([content["number"], content["of"]]), encoding="utf-8")
    return content["number"], content["of"]


def taken(state: Path) -> tuple[set[int], int]:
    """The numbers of the loads that have come, and how many there are (0 if none has come)."""
    found = [json.loads(file.read_text(encoding="utf-8")) for file in state.glob("load_*.json")]
    return {number for number, _ in found}, max((of for _, of in found), default=0)


def digest(file: Path) -> str:
    """sha256 of a file, as hexadecimal digits."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def size_of_checkout(root: Path) -> int:
    """Bytes of the files of a checkout that travel with every call: tracked, or neither tracked nor ignored."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=root, capture_output=True, check=True).stdout.split(b"\0")
    files = [root / name.decode() for name in names if name]
    return sum(file.stat().st_size for file in files if file.is_file())


def main() -> None:
    verb, *arguments = sys.argv[1:]
    try:
        if verb == "missing":
            print(*missing(*map(Path, arguments)), sep="\n")
            return
        out, wheels, data = map(Path, arguments)
        checkout = size_of_checkout(Path(__file__).resolve().parents[2])
        room = min(LARGEST, CALL - checkout - MARGIN)
        if room < LEAST:
            raise LoadError(
                f"the checkout has {checkout / MIB:.0f} MiB of a call's {CALL / MIB:.0f}: remove what git neither "
                "tracks nor ignores, as `git status` shows it."
            )
        print(f"checkout: {checkout / MIB:.1f} MiB; room in a load: {room / MIB:.1f} MiB")
        for load in fill(out, files_of(wheels, data), room):
            size = sum(file.stat().st_size for file in load.iterdir())
            names = json.loads((load / MANIFEST).read_text(encoding="utf-8"))["files"]
            print(f"{load}: {len(names)} files, {size / MIB:.1f} MiB, from {min(names)} to {max(names)}")
    except LoadError as error:
        sys.exit(f"loads: {error}")


if __name__ == "__main__":
    main()
