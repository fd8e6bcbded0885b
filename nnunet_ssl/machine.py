"""How many processes a command starts that was not told: the one place that looks at cores and memory.

nnU-Net starts eight whatever the machine; each takes seconds of a core to begin, which on a few cores is most of what
predicting or measuring small cases takes.
"""

from __future__ import annotations

import os
from pathlib import Path

NNUNETS = 8  # processes that nnU-Net starts to measure, plan and export; 3 each to preprocess and export in prediction
MEMORY = 2 * 2**30  # bytes that a process may come to need with images of usual size
VARIABLE = "nnUNet_def_n_proc"
CGROUP = Path("/sys/fs/cgroup")  # of containers and cluster jobs, on Linux


def processes(most: int = NNUNETS) -> int:
    """What `nnUNet_def_n_proc` says; else one for each core and each 2 GiB of free memory, at most `most`."""
    if asked := os.environ.get(VARIABLE, ""):
        return max(1, int(asked))
    return max(1, min(most, cores(), _free_memory() // MEMORY))


def nnunets_variables(at_once: int = 1) -> dict[str, str]:
    """What nnU-Net's commands read of processes, for commands that run beside each other; the user's own go before.

    Args:
        at_once: so many commands share the machine.
    """
    from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA

    share = max(1, processes(NNUNETS * at_once) // at_once)
    found = {VARIABLE: share, "nnUNet_npp": min(3, share), "nnUNet_nps": min(3, share)}
    found["nnUNet_n_proc_DA"] = min(get_allowed_n_proc_DA(), max(1, cores() // at_once))
    return {name: os.environ.get(name, str(number)) for name, number in found.items()}


def cores() -> int:
    """That this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _text(CGROUP / "cpu.max").partition(" ")
    return max(1, min(allowed, int(quota) // int(period))) if quota.isdigit() else allowed


def _free_memory() -> int:
    """In bytes; much where the system does not tell."""
    lines = dict(line.split(":", 1) for line in _text(Path("/proc/meminfo")).splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in lines else 2**60
    limit, used = _text(CGROUP / "memory.max"), _text(CGROUP / "memory.current")
    return min(free, int(limit) - int(used)) if limit.isdigit() and used.isdigit() else free


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8").strip() if file.is_file() else ""
