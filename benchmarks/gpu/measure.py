"""Measures on a GPU machine without a network, as much as fits into the minutes of a call, the most wanted first.

    python3 benchmarks/gpu/measure.py take .gpu/load_1       one load, in a call of its own
    python3 benchmarks/gpu/measure.py 9                      nine minutes of measuring; the next call goes on
    python3 benchmarks/gpu/measure.py keep FOLDER            at home: puts what came back among results and timing

The first `take` needs nothing but Python: see README.md beside this for the calls. After every step `results.json`, in
the folder that OUT names, tells all that is known: a call that is cut off has told it too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loads import LoadError, take, taken
from plan import PREPARATION, Place, Step, steps

CHECKOUT = Path(__file__).resolve().parents[2]
GRACE = 25.0  # seconds that an interrupted command has to leave a checkpoint
DONE, FAILED, CUT, TOO_LONG = "done", "failed", "cut off", "too long"
TAIL = 2000  # characters of a failed step's output that are told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", help="take, keep, or the minutes to measure")
    parser.add_argument("folder", nargs="?", type=Path, help="the load to take, or what came back")
    parser.add_argument("--state", type=Path, default=Path(tempfile.gettempdir()) / "nnunet_ssl_gpu")
    parser.add_argument("--iterations", type=int, default=6000, help="of the trainings on LA and ACDC")
    parser.add_argument("--groups", nargs="+", help="these alone, such as tests published")
    parser.add_argument("--again", action="store_true", help="what failed or took too long is tried again")
    parser.add_argument("--rehearsal", action="store_true", help="every step in seconds, on a CPU too")
    asked = parser.parse_args()
    try:
        if asked.what == "take":
            number, of = take(asked.folder, asked.state)
            print(f"load {number} of {of} is whole; here: {sorted(taken(asked.state)[0])}")
            install(asked.state)
        elif asked.what == "keep":
            keep(asked.folder)
        else:
            deadline = time.monotonic() + 60 * float(asked.what)
            install(asked.state)
            place = find_place(asked)
            wanted = [step for step in steps(place) if not asked.groups or step.group in asked.groups]
            Session(place, Results(asked.state, out_folder(asked.state)), deadline, asked.again).run(wanted)
    except LoadError as error:
        sys.exit(f"measure: {error}")


def out_folder(state: Path) -> Path:
    """Where what comes back is written."""
    folder = Path(os.environ.get("OUT") or state / "out")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# ---------------------------------------------------------------------- the environment


def install(state: Path) -> None:
    """An environment with the packages of the machine below it, the wheels that have come and the checkout.

    It is made when all wheels are there; a second call finds it.
    """
    environment, mark = state / "environment", state / "installed.json"
    wheels = sorted((state / "wheels").glob("*.whl"))
    if mark.is_file() or not any(wheel.name.startswith("simpleitk") for wheel in wheels):
        return
    begin = time.monotonic()
    shutil.rmtree(environment, ignore_errors=True)
    venv.create(environment, symlinks=True)  # without pip: that machine's own serves
    python = environment / "bin" / "python"
    site = next((environment / "lib").glob("python*/site-packages"))
    below = [folder for folder in sys.path if Path(folder).name in ("site-packages", "dist-packages")]
    (site / "below.pth").write_text(
        "".join(f"import site; site.addsitedir({folder!r})\n" for folder in below), encoding="utf-8"
    )
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    offline = ["--no-index", "--no-deps", "--no-compile"]
    subprocess.run([*pip, "install", "-q", *offline, *map(str, wheels)], check=True)
    subprocess.run([*pip, "install", "-q", *offline, "--no-build-isolation", "-e", str(CHECKOUT)], check=True)
    # what it says is told and ends nothing: what is missing may not be needed
    checked = subprocess.run([*pip, "check"], capture_output=True, encoding="utf-8").stdout.splitlines()
    mark.write_text(json.dumps(checked), encoding="utf-8")
    print(f"installed {len(wheels)} wheels and the checkout in {time.monotonic() - begin:.0f} s", *checked, sep="\n")


def find_place(asked: argparse.Namespace) -> Place:
    """Where to run.

    Raises:
        LoadError: the wheels have not come.
    """
    python = asked.state / "environment" / "bin" / "python"
    if not (asked.state / "installed.json").is_file():
        numbers, of = taken(asked.state)
        raise LoadError(f"of {of or '?'} loads {sorted(numbers)} are here, and wheels are missing: take the others.")
    found = subprocess.run(
        [str(python), "-c", "import torch; print(torch.cuda.is_available())"], capture_output=True, encoding="utf-8"
    )
    if found.returncode:
        raise LoadError(f"torch cannot be imported: {found.stderr.strip().splitlines()[-1]}")
    device = "cuda" if found.stdout.split()[-1] == "True" else "cpu"
    cores = len(os.sched_getaffinity(0))
    (asked.state / "figures").mkdir(exist_ok=True)
    return Place(python, CHECKOUT, asked.state, device, cores, asked.iterations, asked.rehearsal)


def machine(place: Place) -> dict[str, Any]:
    """What the figures depend on."""
    code = (
        "import json, torch; from importlib.metadata import version; d = torch.cuda.is_available();"
        "print(json.dumps({'torch': torch.__version__, 'cudnn': torch.backends.cudnn.version(), 'nnunetv2': "
        "version('nnunetv2'), 'numpy': version('numpy'), 'device': torch.cuda.get_device_name() if d else 'cpu'}))"
    )
    told = subprocess.run([str(place.python), "-c", code], capture_output=True, encoding="utf-8", check=True).stdout
    return json.loads(told.splitlines()[-1]) | {"python": platform.python_version(), "cores": place.cores}


# ---------------------------------------------------------------------- what is known


class Results:
    """What is known of all steps: in the state of the machine, and after every change in the folder that comes back."""

    def __init__(self, state: Path, out: Path):
        self.state, self.out, self.file = state, out, state / "results.json"
        self.content: dict[str, Any] = {"machine": {}, "steps": {}}
        if self.file.is_file():
            self.content = json.loads(self.file.read_text(encoding="utf-8"))

    @property
    def steps(self) -> dict[str, dict[str, Any]]:
        return self.content["steps"]

    def tell(self) -> None:
        """Writes it, and the records of trainings beside it, each whole."""
        write(self.file, self.content)
        write(self.out / "results.json", self.content)
        records = {file.name: json.loads(file.read_text()) for file in sorted((self.state / "records").glob("*.json"))}
        if records:
            write(self.out / "records.json", records)


def write(file: Path, content: Any) -> None:
    aside = file.with_suffix(".partial")
    aside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    aside.replace(file)


def keep(folder: Path) -> None:
    """Puts what came back where the project keeps it: records of trainings one by one, the figures in one file."""
    records = folder / "records.json"
    for name, record in json.loads(records.read_text(encoding="utf-8")).items() if records.is_file() else ():
        write(CHECKOUT / "benchmarks" / "results" / name, record)
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    name = re.sub(r"[^a-z0-9]+", "_", results["machine"]["device"].lower()).strip("_")
    write(CHECKOUT / "benchmarks" / "timing" / f"gpu_{name}.json", results)
    print(table(results))


def table(results: dict[str, Any]) -> str:
    """A line for each step."""
    lines = [", ".join(f"{key} {value}" for key, value in results["machine"].items())]
    for name, step in results["steps"].items():
        lines.append(f"{step['status']:8} {step['seconds']:6.0f} s  {name}{shown(step.get('figures'))}")
        if step["status"] == FAILED:
            lines += [f"           {line}" for line in step["output"].splitlines()[-3:]]
    return "\n".join(lines)


def shown(figures: Any) -> str:
    """The numbers of a step's figures, in short."""
    if not isinstance(figures, dict):
        return ""
    rows = figures.get("rows")
    if isinstance(rows, dict):
        figures = next(iter(rows.values()), {})
    elif "metrics" in figures:
        figures = {name: figures["metrics"][name]["mean"] for name in ("dice", "hd95_mm")}
    return ": " + ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in figures.items()
        if not isinstance(value, dict)
    )


def of_tests(output: str) -> dict[str, Any]:
    """How many tests passed so far, and which did not, of pytest's own lines."""
    found = re.findall(r"\b(PASSED|FAILED|ERROR|SKIPPED)\b *(?:\[ *\d+%\] *)?(tests/\S+)?", output)
    after = re.findall(r"^(tests/\S.*?) (PASSED|FAILED|ERROR|SKIPPED)", output, re.MULTILINE)
    told = [(status, name) for status, name in found if name] or [(status, name) for name, status in after]
    counts = {
        status.lower(): sum(each == status for each, _ in told) for status in ("PASSED", "FAILED", "ERROR", "SKIPPED")
    }
    return counts | {"not passed": sorted({name for status, name in told if status in ("FAILED", "ERROR")})}


# ---------------------------------------------------------------------- running


@dataclass
class Running:
    """A step at work; `told_to_end` is when it was interrupted."""

    step: Step
    process: subprocess.Popen
    begin: float
    told_to_end: float | None = None


class Session:
    """Runs steps until the deadline; see `Step`."""

    def __init__(self, place: Place, results: Results, deadline: float, again: bool = False):
        self.place, self.results, self.deadline, self.again = place, results, deadline, again
        self.running: list[Running] = []

    def run(self, wanted: Sequence[Step]) -> None:
        self.results.content["machine"] = machine(self.place)
        self.results.tell()
        waiting = [step for step in wanted if self.is_wanted(step)]
        loads, of = taken(self.place.state)
        if len(loads) < of:
            print(f"loads {sorted(set(range(1, of + 1)) - loads)} are missing: what reads scans waits")
            waiting = [step for step in waiting if not step.needs]
        while self.running or any(self.fits(step) for step in waiting):
            self.begin_what_may(waiting)
            for each in [*self.running]:
                self.look_at(each)
            time.sleep(0.2)
        print(table(self.results.content))
        print(f"{len(waiting)} steps wait for another call")

    def is_wanted(self, step: Step) -> bool:
        """What the end of a call cut off goes on or begins anew; what failed or took too long, only if asked for."""
        before = self.results.steps.get(step.name, {"status": CUT})["status"]
        return before == CUT or (self.again and before != DONE)

    def left(self) -> float:
        """Seconds until the deadline, less what interrupted commands need."""
        return self.deadline - GRACE - time.monotonic()

    def fits(self, step: Step) -> bool:
        return self.left() > step.least

    def begin_what_may(self, waiting: list[Step]) -> None:
        """Begins the first that fits and, beside it, others of its group; preparations run beside the tests."""
        for step in [step for step in waiting if self.fits(step)]:
            groups = [each.step.group for each in self.running]
            if step.group == PREPARATION:
                free = PREPARATION not in groups
            else:
                # tests do not mind what else the processor does; what is timed or reads scans does
                others = [group for group in groups if group != PREPARATION or step.group != "tests"]
                free = len(others) < step.lanes and set(others) <= {step.group}
                if not free:
                    return  # nothing overtakes it
            if free:
                waiting.remove(step)
                self.begin(step)

    def begin(self, step: Step) -> None:
        self.log(step).parent.mkdir(parents=True, exist_ok=True)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("nnUNet_")}
        with self.log(step).open("a", encoding="utf-8") as stream:
            process = subprocess.Popen(
                step.command, cwd=self.place.checkout, env=environment | step.environment, stdin=subprocess.DEVNULL,
                stdout=stream, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.running.append(Running(step, process, time.monotonic()))

    def log(self, step: Step) -> Path:
        return self.place.state / "logs" / (re.sub(r"[^A-Za-z0-9]+", "_", step.name) + ".log")

    def look_at(self, each: Running) -> None:
        """Interrupts a step whose time is over, as Ctrl-C does, and tells of one that has ended."""
        now, step = time.monotonic(), each.step
        if each.process.poll() is None:
            if each.told_to_end is None and (self.left() <= 0 or (step.limit and now - each.begin > step.limit)):
                each.told_to_end = now
                os.killpg(each.process.pid, signal.SIGINT)
            elif each.told_to_end is not None and now > min(self.deadline, each.told_to_end + GRACE):
                os.killpg(each.process.pid, signal.SIGKILL)
                each.process.wait()
            return
        self.running.remove(each)
        cut = CUT if self.left() <= 0 else TOO_LONG
        status = DONE if each.process.returncode == 0 else FAILED if each.told_to_end is None else cut
        self.results.steps[step.name] = told = self.known_of(step, status, now - each.begin)
        self.results.tell()
        print(f"{status} after {now - each.begin:.0f} s: {step.name}{shown(told.get('figures'))}", flush=True)

    def known_of(self, step: Step, status: str, seconds: float) -> dict[str, Any]:
        """What is told of a step that has ended, in all calls together."""
        before = self.results.steps.get(step.name, {}).get("seconds", 0.0)
        output = self.log(step).read_text(encoding="utf-8", errors="replace")
        told: dict[str, Any] = {"status": status, "seconds": round(before + seconds, 1), "command": list(step.command)}
        if step.group == "tests":
            told["figures"] = of_tests(output)
        elif step.leaves is not None and step.leaves.is_file():
            told["figures"] = json.loads(step.leaves.read_text(encoding="utf-8"))
            if "learning_curve" in told["figures"]:  # a training's record comes back beside this
                told["figures"] = {"metrics": told["figures"]["metrics"]}
        if status == FAILED:
            told["output"] = output[-TAIL:]
        return told


if __name__ == "__main__":
    main()
