"""The trainings of an accuracy benchmark: which were asked for, and the record of each, if it has one."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from suites import Suite

from nnunet_ssl.errors import InputError
from nnunet_ssl.report.records import ALL, SUPERVISED
from nnunet_ssl.runner.plan import BASELINE, overrides_by_method
from nnunet_ssl.training.settings import parse_overrides

PRESETS = ("default", "published")
NAIVE = "naive"  # of the baseline that takes what was not annotated for background
HALF = "half"  # of the methods whose pool is stored as float16


@dataclass(frozen=True)
class Row:
    """One training. `tag` tells runs of other overrides apart: the preset, or a name for what else is changed."""

    method: str
    labeled: int | str
    seed: int
    iterations: int
    preset: str
    name: str | None
    tag: str
    overrides: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.labeled}_{shown(self.method)}_{self.tag}_{self.iterations}_seed{self.seed}"


def make_rows(suite: Suite, asked: argparse.Namespace) -> list[Row]:
    """The trainings that were asked for, with both bounds, seed by seed.

    Raises:
        InputError: a number that the suite does not have, overrides that the trainers do not take, or a name that says
            something else.
    """
    labeled = sorted(set(asked.labeled or suite.labeled[:1]))
    if wrong := [number for number in labeled if number not in suite.labeled]:
        raise InputError(f"--labeled {wrong[0]}: {suite.name} has {', '.join(map(str, suite.labeled))}.")
    if asked.name is not None and (
        asked.name in (*PRESETS, NAIVE, HALF) or not re.fullmatch(r"[A-Za-z0-9.-]+", asked.name)
    ):
        raise InputError(f"--name {asked.name}: use letters, digits, '.' and '-', and not the name of a preset.")
    if asked.half and (asked.name or asked.config):
        raise InputError("--half stands alone: leave out --name and --config.")
    iterations = asked.iterations or suite.iterations
    own, _ = parse_overrides(asked.config)
    fixed = length(suite, iterations) | ({} if asked.preset == "default" else {"preset": asked.preset})
    if both := [key for key in own if key in {*fixed, "preset", "seed"}]:
        raise InputError(
            f"--config sets {both[0]}, which suite, --iterations, --preset and --seeds decide: leave it out."
        )
    methods = [BASELINE, *(method for method in dict.fromkeys(asked.methods) if method != BASELINE)]
    overrides = overrides_by_method(methods, json.dumps(fixed | own))
    rows = []
    for seed in dict.fromkeys(asked.seeds):
        wanted = [(method, number) for number in labeled for method in methods]
        # what copies with fewer labels are compared with: scans labeled in full
        wanted += [(BASELINE, number) for number in suite.labeled if suite.copied and number not in labeled]
        for method, number in [*wanted, (BASELINE, ALL)]:
            changed = {key: overrides[method][key] for key in own if key in overrides[method]}
            preset = "default" if method == BASELINE else asked.preset
            # The baseline has no preset and few settings: it is the same row for most of what is asked for methods.
            name = None if method == BASELINE and not changed else HALF if asked.half else asked.name
            digest = hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:6]
            tag = name or (f"{preset}-{digest}" if changed else preset)
            rows.append(Row(method, number, seed, iterations, preset, name, tag, overrides[method]))
            if suite.partial and (method, number) == (BASELINE, 0) and not changed:
                rows.append(replace(rows[-1], name=NAIVE, tag=NAIVE))
    return rows


def length(suite: Suite, iterations: int) -> dict[str, int | float]:
    """The overrides for a number of iterations, and the suite's learning rate.

    Raises InputError if it is not a number of whole epochs.
    """
    per_epoch = min(iterations, suite.iterations_per_epoch)
    if iterations < 1 or iterations % per_epoch:
        raise InputError(f"--iterations {iterations}: give a multiple of {suite.iterations_per_epoch}.")
    rate = {} if suite.initial_lr is None else {"initial_lr": suite.initial_lr}
    return rate | {
        "num_epochs": iterations // per_epoch,
        "num_iterations_per_epoch": per_epoch,
        "num_val_iterations_per_epoch": 2,
        "save_every": 5,  # what is lost when a training is cut off
    }


def shown(method: str) -> str:
    """The method's name in records: the baseline's is in lower case."""
    return SUPERVISED if method == BASELINE else method


def record_file(row: Row, suite: Suite, out: Path) -> Path:
    """The JSON of a row."""
    return out / f"{suite.name}_{row}.json"


def recorded(row: Row, suite: Suite, out: Path) -> dict[str, Any] | None:
    """The record of a row, None if it has none.

    Raises:
        InputError: it was made with other overrides or another definition of the suite.
    """
    file = record_file(row, suite, out)
    if not file.is_file():
        return None
    record = json.loads(file.read_text(encoding="utf-8"))
    before, now = record["definition"] | record["overrides"], definition(suite) | row.overrides
    if changed := sorted(key for key in {*before, *now} if before.get(key) != now.get(key)):
        what = ", ".join(f"{key} {before.get(key)}, not {now.get(key)}" for key in changed)
        raise InputError(f"{file} was made with {what}: remove it, or give the new runs another --name or --out.")
    return record


def definition(suite: Suite) -> dict[str, Any]:
    """What every record of a suite rests on, as JSON gives it back: not which numbers there are, and the length."""
    others = ("labeled", "iterations", "iterations_per_epoch")
    # Older records have none of these.
    others += tuple(key for key in ("initial_lr", "batch_dice", "rare", "sliced", "partial") if not getattr(suite, key))
    return json.loads(json.dumps({key: value for key, value in asdict(suite).items() if key not in others}))
