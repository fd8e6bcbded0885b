"""A stand-in for nnUNetv2_train in real processes, and what tests of the runner share."""

import json
import os
import stat
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nnunet_ssl.data.origin import ORIGIN_FILE
from nnunet_ssl.files import write_json
from nnunet_ssl.runner.plan import Experiment, Run

# Does as nnUNetv2_train in its folder; what else happens stands in behavior.json by "TRAINER/FOLD".
FAKE = """#!{python} -IS
import json, os, shutil, signal, subprocess, sys, time, uuid
from pathlib import Path

home = Path(__file__).parent
dataset, configuration, fold = sys.argv[1:4]
options = dict(zip(sys.argv[4::2], sys.argv[5::2]))
trainer, plans = options["-tr"], options["-p"]
behavior = json.loads((home / "behavior.json").read_text(encoding="utf-8")).get(f"{{trainer}}/{{fold}}", "")
call = {{
    "trainer": trainer, "fold": int(fold), "arguments": sys.argv[1:], "start": time.time(), "pid": os.getpid(),
    **{{name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "nnUNet_results", "nnUNet_ssl_config")}},
    **{{name: os.environ.get(name) for name in ("nnUNet_def_n_proc", "nnUNet_nps")}},
}}
record = home / "calls" / f"{{uuid.uuid4().hex}}.json"
record.write_text(json.dumps(call), encoding="utf-8")
if behavior == "fail":
    print("Epoch 0\\nRuntimeError: out of memory\\n")
    sys.exit(3)
if behavior == "do nothing":
    sys.exit(0)
folder = Path(os.environ["nnUNet_results"]) / "Dataset007_X" / f"{{trainer}}__{{plans}}__{{configuration}}"
folder = folder / f"fold_{{fold}}"
(folder / "validation").mkdir(parents=True, exist_ok=True)
origin = home / "origins" / folder.relative_to(home.parent / "results") / "nnunet_ssl_origin.json"
if origin.is_file():
    shutil.copy(origin, folder)
if behavior in ("hang", "be deaf", "leave a worker"):
    if behavior == "be deaf":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
    worker = subprocess.Popen([sys.executable, "-IS", "-c", deaf])
    (folder / "checkpoint_latest.pth").touch()
    record.write_text(json.dumps(call | {{"worker": worker.pid}}), encoding="utf-8")
    if behavior == "leave a worker":
        os._exit(1)
    time.sleep(60)
time.sleep(0.2)
dice = 0.5 + 0.1 * int(fold)
(folder / "checkpoint_final.pth").touch()
summary = {{"mean": {{"1": {{"Dice": dice}}, "2": {{"Dice": 1.0}}}}, "foreground_mean": {{"Dice": (dice + 1) / 2}}}}
(folder / "validation" / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
record.write_text(json.dumps(call | {{"end": time.time()}}), encoding="utf-8")
"""


class Trainings:
    """The stand-in and what it was called with."""

    def __init__(self, home: Path):
        self.home = home
        (home / "calls").mkdir(parents=True)
        self.program = home / "nnUNetv2_train"
        self.program.write_text(FAKE.format(python=sys.executable), encoding="utf-8")
        self.program.chmod(self.program.stat().st_mode | stat.S_IXUSR)
        self.behave()

    def know(self, experiment: Experiment, runs: Sequence[Run]) -> None:
        """Has trainings write their origin, as our trainers do: what they would be made of now."""
        for run in runs:
            folder = self.home / "origins" / experiment.folder(run).relative_to(experiment.results)
            write_json(experiment.origin(run).as_dict(), folder / ORIGIN_FILE)

    def behave(self, **by_run: str) -> None:
        (self.home / "behavior.json").write_text(
            json.dumps({f"nnUNetTrainer{run[:-1]}/{run[-1]}": what for run, what in by_run.items()}), encoding="utf-8"
        )

    def calls(self) -> list[dict]:
        found = [json.loads(file.read_text(encoding="utf-8")) for file in (self.home / "calls").iterdir()]
        return sorted(found, key=lambda call: call["start"])

    def forget(self) -> None:
        for file in (self.home / "calls").iterdir():
            file.unlink()


def finish(experiment: Experiment, run: Run, dice: dict[str, float], **changes) -> Path:
    """Leaves a run as trained out and validated; `changes` are what its origin differs in from what it would be now."""
    folder = experiment.folder(run)
    begin(experiment, run, "final", **changes)
    (folder / "validation").mkdir(parents=True)
    summary = {"mean": {key: {"Dice": value, "IoU": 0.0} for key, value in dice.items()}}
    (folder / "validation" / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return folder


def begin(experiment: Experiment, run: Run, checkpoint: str = "latest", **changes) -> Path:
    """Leaves a run as cut off."""
    folder = experiment.folder(run)
    write_json(replace(experiment.origin(run), **changes).as_dict(), folder / ORIGIN_FILE)
    (folder / f"checkpoint_{checkpoint}.pth").touch()
    return folder


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def interrupt_when(trainings: Trainings, behavior: dict[str, int], number: int) -> None:
    """Sends this process a signal as soon as all trainings hang with their workers."""
    trainings.behave(**{f"MeanTeacher{fold}": what for what, fold in behavior.items()})

    def send():
        wait_for(lambda: len(list((trainings.home / "calls").iterdir())) == len(behavior))
        wait_for(
            lambda: all("worker" in file.read_text(encoding="utf-8") for file in (trainings.home / "calls").iterdir())
        )
        time.sleep(0.2)
        os.kill(os.getpid(), number)

    threading.Thread(target=send, daemon=True).start()


def wait_for(condition, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
