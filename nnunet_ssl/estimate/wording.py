"""An estimate as a table of 80 columns, and what to change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import timedelta
from textwrap import wrap
from typing import Any

WIDTH = 80
GB = 2**30
WAITING = 0.05  # share of a step from which waiting for batches is told
CARDS = (8, 11, 12, 16, 24, 32, 40, 48, 80, 96, 141)  # GB of memory that GPUs have
CUDAS, SHARE = 0.7 * GB, 1.1  # what CUDA takes itself, and what its allocator cannot use of the rest
NIGHT = 12  # hours


def in_lines(found: dict[str, Any]) -> list[str]:
    """What `estimate` found, then what to change."""
    lines = [f"{found['trainer']}, {found['dataset']}, {found['configuration']}, fold {found['fold']}"]
    if "hours" in found:
        patch = " x ".join(map(str, found["patch"]))
        labeled, unlabeled = found["batch"]
        lines += [
            f"{found['epochs']} epochs of {found['steps']} steps, batch {labeled} labeled and {unlabeled} unlabeled",
            f"patches of {patch}, on {found['gpu'] or 'the CPU'}, "
            f"cores: {found['cores']}, loaders: {found['processes']}",
        ]
    lines += ["", *_table(_head(found), _rows(found)), ""]
    lines += [_pair(name, value) for name, value in _once(found)]
    changes = advice(found)
    lines += ["", "What to change:" if changes else "Nothing to change."]
    for change in changes:
        lines += wrap(change, WIDTH, initial_indent="- ", subsequent_indent="  ", break_long_words=False)
    return lines


def card_for(half_bytes: float) -> int:
    """The smallest GPU, in GB, that holds a step; 0 if none does."""
    return next((card for card in CARDS if half_bytes * SHARE + CUDAS <= card * GB), 0)


def advice(found: dict[str, Any]) -> list[str]:
    """What would make the training possible, or faster."""
    changes = [*_of_memory(found), *_of_loaders(found)]
    if "hours" in found:
        if found["hours"] > NIGHT and (epochs := int(found["epochs"] * NIGHT / found["hours"])):
            setting = f"nnUNet_ssl_config='{{num_epochs: {epochs}}}'"
            changes.append(f"{NIGHT} hours are {epochs} epochs: {setting}, for the baseline too.")
        if found["free_bytes"] < found["results_bytes"]:
            changes.append("Make room in nnUNet_results, or let it point at another disk.")
    return changes


def loaders_needed(phase: dict[str, Any]) -> int:
    """So many loader processes give batches as fast as the device takes them."""
    return math.ceil(phase["batch_core_s"] / max(1e-9, phase["step_s"] - phase["wait_s"]))


def waits(phase: dict[str, Any]) -> bool:
    """Whether the device waits for batches for more than a small share of a step."""
    return phase["wait_s"] > WAITING * phase["step_s"]


def _of_memory(found: dict[str, Any]) -> list[str]:
    largest = max(phase["half_bytes"] for phase in found["phases"])
    if not found.get("out_of_memory") and (card_for(largest) or found["device"] == "cpu"):
        return []
    return [
        "The GPU is too small for a step: fewer unlabeled patches (unlabeled_batch_size in nnUNet_ssl_config), or a "
        "smaller patch (plan anew with nnU-Net's -gpu_memory_target and preprocess with these plans)."
    ]


def _of_loaders(found: dict[str, Any]) -> list[str]:
    slow = [phase for phase in found["phases"] if "step_s" in phase and waits(phase)]
    if not slow:
        return []
    needed = max(map(loaders_needed, slow)) + (found["device"] == "cpu")
    if found["processes"] < needed <= found["cores"]:
        return [f"Batches come too slowly: set nnUNet_n_proc_DA={needed}, it is {found['processes']}."]
    return [
        f"Batches come too slowly, and {needed} loaders would be needed on {found['cores']} cores: take a machine with "
        "more of them, end what else runs here, or ask for fewer unlabeled patches (unlabeled_batch_size)."
    ]


def _head(found: dict[str, Any]) -> list[str]:
    if len(found["phases"]) == 1:
        return ["all epochs"]
    names, start = [], 0
    for number, phase in enumerate(found["phases"]):
        end = start + phase.get("epochs", 0)
        names.append(f"epoch {start}-{end - 1}" if "epochs" in phase else f"phase {number}")
        start = end
    return names


def _rows(found: dict[str, Any]) -> list[tuple[str, list[str]]]:
    phases = found["phases"]
    rows = [
        ("memory of a step on a GPU, GB", [f"{phase['half_bytes'] / GB:.1f}" for phase in phases]),
        ("in float32, as on a CPU, GB", [f"{phase['float32_bytes'] / GB:.1f}" for phase in phases]),
        ("seconds of a core for a batch", [f"{phase['batch_core_s']:.2f}" for phase in phases]),
    ]
    if "peak_bytes" in phases[0]:
        rows.insert(1, ("  measured here, GB", [f"{phase['peak_bytes'] / GB:.1f}" for phase in phases]))
    if "step_s" in phases[0]:
        rows += [
            ("seconds a step", [f"{phase['step_s']:.2f}" for phase in phases]),
            ("  waiting for a batch", [f"{phase['wait_s'] / phase['step_s']:.0%}" for phase in phases]),
            ("hours", [f"{phase['hours']:.1f}" for phase in phases]),
        ]
    return rows


def _once(found: dict[str, Any]) -> list[tuple[str, str]]:
    """What is not of a phase."""
    card = card_for(max(phase["half_bytes"] for phase in found["phases"]))
    pairs = [("GPU", f"one of {card} GB holds a step" if card else "none holds a step")]
    if found.get("out_of_memory"):
        pairs.append(("seconds a step", "not known: the memory of this GPU did not suffice"))
    elif "hours" not in found:
        pairs.append(("seconds a step", "not known without a GPU; -device cpu measures the CPU"))
    else:
        start = found["start_s"] + found["phases"][0]["first_s"]
        slow = [phase for phase in found["phases"] if waits(phase)]
        pairs += [
            ("start-up", f"{_time(start)} until the first step is done"),
            ("validation at the end", _time(found["validation_s"])),
            *([("pseudo-labels", f"{_time(found['labeling_s'])} a phase")] if found["labeling_s"] else []),
            ("hours in all", f"{found['hours']:.1f}"),
            ("held back by", "the loaders" if slow else "the device"),
            ("writes", f"{found['results_bytes'] / GB:.2f} GB; {found['free_bytes'] / GB:.0f} GB are free"),
        ]
    for what, folder in found["folders"].items():
        pairs.append((f"{what} cases", f"{folder['cases']}, preprocessed {folder['bytes'] / GB:.2f} GB"))
    return pairs


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _pair(name: str, value: str) -> str:
    return f"{name:<24}{value}"


def _table(head: Sequence[str], rows: Sequence[tuple[str, list[str]]]) -> list[str]:
    column = max(12, *(len(name) + 2 for name in head))
    first = max(len(name) for name, _ in rows) + 2
    each = max(1, (WIDTH - first) // column)  # phases side by side
    lines = []
    for start in range(0, len(head), each):
        lines += [] if not start else [""]
        for name, cells in [("", list(head)), *rows]:
            lines.append((f"{name:<{first}}" + "".join(f"{c:>{column}}" for c in cells[start : start + each])).rstrip())
    return lines
