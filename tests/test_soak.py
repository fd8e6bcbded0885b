"""A long training over many unlabeled cases: memory, open files and the time of a step stay as they are."""

import json
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.run.run_training import get_trainer_from_args

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]

EPOCH = 50  # steps
LOOKS = 50  # at the processes, spread over the training


def multiply(dataset, cases):
    """Turns the unlabeled folder into one of many cases: links to the few that there are."""
    (folder,) = dataset.base.glob("*_unlabeled")
    manifest = json.loads((folder / "unlabeled.json").read_text(encoding="utf-8"))
    originals = manifest["cases"]
    manifest["cases"] = [f"many_{number:05d}" for number in range(cases)]
    for number, case in enumerate(manifest["cases"]):
        for ending in (".b2nd", ".pkl"):
            os.link(folder / f"{originals[number % len(originals)]}{ending}", folder / f"{case}{ending}")
    (folder / "unlabeled.json").write_text(json.dumps(manifest), encoding="utf-8")


def megabytes(pid):
    """Memory of a process: resident, with its share of shared pages only, without those of files, shared tensors."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()[1:]
    sizes = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines}
    return {"rss": sizes["Rss"], "pss": sizes["Pss"], "anonymous": sizes["Anonymous"], "shared": shared(pid)}


def shared(pid):
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines())
    return int(status["RssShmem"].split()[0]) / 1024


def handles(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()]


def slope(steps, values):
    """Per 1,000 steps, over what comes after the first third."""
    third = len(steps) // 3
    return 1000 * np.polyfit(steps[third:], values[third:], 1)[0]


@pytest.mark.parametrize(
    ("cases", "epochs"), [(500, 4), pytest.param(20_000, 60, marks=pytest.mark.long)], ids=["short", "long"]
)
def test_nothing_grows(phantom_2d_regions, tmp_path, monkeypatch, capsys, cases, epochs):
    dataset = phantom_2d_regions.copy(tmp_path).use(monkeypatch)
    multiply(dataset, cases)
    monkeypatch.setenv("nnUNet_n_proc_DA", "2")
    monkeypatch.setattr("nnunet_ssl.training.progress.ProgressLogger.plot_progress_png", lambda *args: None)
    length = f"num_epochs: {epochs}, num_iterations_per_epoch: {EPOCH}, num_val_iterations_per_epoch: 2, seed: 0"
    monkeypatch.setenv("nnUNet_ssl_config", f"{{{length}}}")
    before = set(children(os.getpid()))
    device = torch.device("cpu")
    trainer = get_trainer_from_args(dataset.name, "2d", 0, "nnUNetTrainerMeanTeacher", dataset.plans, False, device)
    join_streams, train_step = trainer.join_streams, trainer.train_step
    seconds, looks, waited, every = [], [], {}, EPOCH * epochs // LOOKS

    def timed(labeled):
        started = time.perf_counter()
        both = join_streams(labeled)
        waited["pool"] = time.perf_counter() - started
        assert len(both.unlabeled.indices) == cases
        return both

    def step(batch):
        outputs = train_step(batch)
        seconds.append((time.perf_counter(), time.process_time()))
        if len(seconds) % every == 0:
            pids = [os.getpid(), *sorted(set(children(os.getpid())) - before)]
            looks.append([megabytes(pid) | {"handles": handles(pid)} for pid in pids])
        return outputs

    trainer.join_streams, trainer.train_step = timed, step
    trainer.run_training()

    assert len(seconds) == EPOCH * epochs
    steps = np.arange(1, len(looks) + 1) * every
    processes = min(map(len, looks))
    assert processes == 4  # this one, two workers for training and one for validation
    kinds = ("rss", "pss", "anonymous", "shared", "handles")
    slopes = {
        kind: [slope(steps, [look[process][kind] for look in looks]) for process in range(processes)] for kind in kinds
    }
    times, computing = np.diff(seconds, axis=0).T
    third = len(times) // 3
    ratios = [statistics.median(values[-third:]) / statistics.median(values[:third]) for values in (times, computing)]
    with capsys.disabled():
        print(f"\n{cases} cases, {len(seconds)} steps; slopes per 1,000 steps of the parent and its workers")
        for kind, values in slopes.items():
            print(f"  {kind:9}", *(f"{value:+8.3f}" for value in values), " at the end", looks[-1][0][kind])
        print("  step {:.1f} ms, of which {:.1f} computing".format(*(1000 * np.median([times, computing], axis=1))))
        print("  last third of the steps / first third {:.2f}, of computing {:.2f}".format(*ratios))
        print(f"  list of unlabeled cases {waited['pool']:.3f} s")
    most = max(max(look[process]["handles"] for look in looks[: len(looks) // 3]) for process in range(processes))
    assert max(look[process]["handles"] for look in looks for process in range(processes)) <= most + 8
    assert waited["pool"] < 10
    if epochs > 10:
        assert max(slopes["anonymous"]) < 1
        assert ratios[1] < 1.2  # the other one also tells what else the machine does
