"""What nnU-Net's training logs tell of a training: its learning curve, its time and its memory."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RUN_LOG = "nnunet_ssl_run.log"  # what `nnunet_ssl run` called, and all that it printed
NUMBER = r"(-?[\d.]+(?:e[+-]?\d+)?|nan|-?inf)"
CURVES = {
    "train_loss": re.compile(rf"train_loss {NUMBER}"),
    "val_loss": re.compile(rf"val_loss {NUMBER}"),
    "epoch_seconds": re.compile(rf"Epoch time: {NUMBER} s"),
}
EPOCH, PSEUDO_DICE = re.compile(r"Epoch (\d+) *$"), re.compile(r"Pseudo dice \[(.*)\]")
PEAK_MEMORY = re.compile(rf"peak memory: {NUMBER} MB")


def read_logs(texts: Sequence[str]) -> tuple[dict[str, list], float | None, float | None]:
    """What nnU-Net's training logs tell of a training that may have been cut off and resumed.

    Args:
        texts: the `training_log_*.txt` of a fold, the oldest first. An epoch that was trained again counts once.

    Returns:
        The learning curve (values per epoch: losses, `pseudo_dice` by class, seconds), the seconds of all epochs and
        the largest `peak memory` in MB; None for what the logs do not tell, and for values that are not finite.
    """
    epochs: dict[int, dict[str, Any]] = {}
    peaks = []
    for text in texts:
        current: dict[str, Any] = {}
        for line in text.splitlines():
            if match := EPOCH.search(line):
                current = epochs[int(match[1])] = {}
            elif match := PSEUDO_DICE.search(line):
                values = re.sub(r"np\.float\d+|[()]", "", match[1])  # NumPy 2 writes np.float32(0.9)
                current["pseudo_dice"] = [_finite(value) for value in values.split(",")]
            elif match := PEAK_MEMORY.search(line):
                peaks.append(float(match[1]))
            for name, pattern in CURVES.items():
                if match := pattern.search(line):
                    current[name] = _finite(match[1])
    ordered = [epochs[number] for number in sorted(epochs)]
    curve = {name: [epoch.get(name) for epoch in ordered] for name in (*CURVES, "pseudo_dice")}
    seconds = [value for value in curve["epoch_seconds"] if value is not None]
    return curve, sum(seconds) if seconds else None, max(peaks) if peaks else None


def read_training(fold: Path) -> tuple[dict[str, list], float | None, float | None]:
    """`read_logs` of a trained fold's folder."""
    logs = sorted(fold.glob("training_log_*.txt"), key=lambda file: file.stat().st_mtime)
    return read_logs([file.read_text(encoding="utf-8", errors="replace") for file in logs])


def _finite(text: str) -> float | None:
    value = float(text)
    return value if abs(value) < float("inf") else None  # False for NaN too
