"""Does it help to choose which scans to annotate next, or is chance as good?

    python benchmarks/annotation.py --suite la-coarse --strategies boostmis --seeds 0 1 --rounds 2

The loop of `nnunet_ssl suggest` and `nnunet_ssl adopt` on a data set whose labels are known: a network learns from the
suite's smallest number of labeled scans, a strategy ranks the others, the labels of the first ones are uncovered, a
network learns anew from all that are labeled by then, and so on. `random` is always run beside the strategies that
were asked for. `worst` is a control that no lab has: it looks at the hidden labels and takes the scans whose draft is
the worst. If it does not beat `random`, no forecast of errors can.

A seed decides on the labeled scans of the beginning (seed 0 has the protocol's), on every training, and with `--draws`
on what `random` draws; so all strategies of a seed begin with the same network and are compared pairwise. Dice is of
the test cases, on the training grid.

The same command goes on where it was cut off, and repeats nothing. Each row leaves a JSON in `benchmarks/annotation/`,
from which the tables and `--figure` are made.
"""

from __future__ import annotations

import argparse
import random
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accuracy import HERE, Workspace, prepare, told_in_a_line, training_cases
from annotation_tables import write_figure, write_tables
from looks import Training, case_scores, fold_with, look, mean_dice, test
from records import commit, versions
from rows import definition
from suites import SUITES, Suite

from nnunet_ssl.annotation.scores import within_pool
from nnunet_ssl.annotation.strategies import STRATEGIES, Labeled, choose, unstable
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import read_json, write_json

RANDOM, WORST = "random", "worst"


@dataclass(frozen=True)
class Row:
    """A strategy that begins with the network of a seed. `draw` tells several of `random` apart."""

    strategy: str
    seed: int
    draw: int
    method: str
    iterations: int
    begin: int
    each: int

    def __str__(self) -> str:
        draw = f"_draw{self.draw}" if self.strategy == RANDOM else ""
        return f"{self.strategy}_{self.method}_{self.iterations}_{self.begin}by{self.each}_seed{self.seed}{draw}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", required=True, choices=list(SUITES))
    parser.add_argument("--strategies", nargs="*", default=[], choices=[*STRATEGIES, WORST], metavar="NAME")
    parser.add_argument("--method", default="Supervised", help="the trainer, such as BCP")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--draws", type=int, default=1, help="of random, for each seed")
    parser.add_argument("--rounds", type=int, default=4, help="0: only how well the scores foretell the errors")
    parser.add_argument("--begin", type=int, help="labeled scans of the beginning; default: the suite's fewest")
    parser.add_argument("--each", type=int, default=2, help="scans that are annotated in a round")
    parser.add_argument("--iterations", type=int, help="of each training; default: the suite's")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--source", type=Path, help="the data set as downloaded; default: ../shared/data beside here")
    parser.add_argument("--work", type=Path, default=HERE / "work", help="that of accuracy.py may be taken")
    parser.add_argument("--out", type=Path, default=HERE / "annotation", help="folder for the JSON files")
    parser.add_argument("--figure", type=Path, help="PNG of the Dice by labeled scans, or without rounds of the drafts")
    asked = parser.parse_args()
    with told_in_a_line("annotation"):
        run(SUITES[asked.suite], asked)


def run(suite: Suite, asked: argparse.Namespace) -> None:
    """Makes what is missing of the rows that were asked for, and prints their tables."""
    workspace = Workspace(suite, asked.work.resolve() / suite.name, asked.device)
    records = []
    for row in rows_of(suite, asked):
        file = asked.out / f"{suite.name}_{row}.json"
        record = recorded(file, suite, asked.rounds)
        if record is None:
            prepare(workspace, asked.source)
            record = measure(workspace, row, asked.rounds)
            asked.out.mkdir(parents=True, exist_ok=True)
            write_json(record, file)
        records.append(record)
    write_tables(records)
    if asked.figure:
        write_figure(records, asked.figure)


def rows_of(suite: Suite, asked: argparse.Namespace) -> list[Row]:
    """The rows, seed by seed, random first. Raises InputError for numbers that make no row."""
    for name, least in (("rounds", 0), ("begin", 1), ("each", 1), ("draws", 1)):
        if (given := getattr(asked, name)) is not None and given < least:
            raise InputError(f"--{name} {given}: give {least} or more.")
    begin = suite.labeled[0] if asked.begin is None else asked.begin
    names = [RANDOM, *(name for name in dict.fromkeys(asked.strategies) if name != RANDOM)]
    fixed = (asked.method, asked.iterations or suite.iterations, begin, asked.each)
    return [
        Row(name, seed, draw, *fixed)
        for seed in dict.fromkeys(asked.seeds)
        for name in names
        for draw in range(asked.draws if name == RANDOM else 1)
    ]


def recorded(file: Path, suite: Suite, rounds: int) -> dict[str, Any] | None:
    """The record of a row, None if it has none, or fewer rounds.

    Raises:
        InputError: it was made with another definition of the suite.
    """
    if not file.is_file():
        return None
    record = read_json(file, "remove it")
    if record["definition"] != definition(suite):
        raise InputError(f"{file} was made with another {suite.name}: remove it, or name another --out.")
    if len(record["rounds"]) <= rounds:
        return None
    return record | {"rounds": record["rounds"][: rounds + 1]}


def measure(workspace: Workspace, row: Row, rounds: int) -> dict[str, Any]:
    """Goes through the rounds of a row and returns its record."""
    state, suite = commit(), workspace.suite
    known, found = beginning(workspace, row), []
    for number in range(rounds + 1):
        training = Training(row.method, fold_with(workspace, known), row.seed, row.iterations)
        tested = test(workspace, training)
        cases = {case: mean_dice(by_class) for case, by_class in tested["dice"].items()}
        entry = {
            "labeled": known,
            "dice": float(np.mean([*cases.values()])),
            "per_case": cases,
            "core_seconds": tested["core_seconds"],
        }
        if number < rounds or not rounds:
            seen = None if row.strategy == RANDOM and rounds else look(workspace, training)
            known = [*known, *ranking(row, seen, workspace, known)[: row.each]]
            if seen:
                entry |= {
                    "pool": pool_of(seen),
                    "core_seconds": tested["core_seconds"] | {"pool": seen["core_seconds"]},
                }
        found.append(entry)
    return {
        "suite": suite.name,
        **vars(row),
        "device": workspace.device,
        "commit": state,
        "versions": versions(),
        "command": command_of(row, suite, rounds),
        "definition": definition(suite),
        "rounds": found,
    }


def beginning(workspace: Workspace, row: Row) -> list[str]:
    """The cases whose labels are known at first: the protocol's first units for seed 0, drawn ones for others."""
    cases, size = training_cases(workspace), workspace.suite.cases_per_unit
    units = [cases[start : start + size] for start in range(0, len(cases), size)]
    if row.seed:
        random.Random(f"beginning {row.seed}").shuffle(units)
    return [case for unit in units[: row.begin] for case in unit]


def ranking(row: Row, seen: dict[str, Any] | None, workspace: Workspace, known: list[str]) -> list[str]:
    """The cases whose labels are not known, in the order in which the row's strategy would have them annotated."""
    if row.strategy != RANDOM:
        return orders(seen)[row.strategy]
    cases = training_cases(workspace)
    random.Random(f"{row.seed} {row.draw}").shuffle(cases)
    return [case for case in cases if case not in {*known}]


def orders(seen: dict[str, Any]) -> dict[str, list[str]]:
    """The order of the pool by each strategy but random, by instability alone, and by `worst`."""
    labeled = Labeled(tuple(seen["labeled"]), np.array([*seen["labeled"].values()]))
    scored = case_scores(seen["pool"])
    scored = within_pool(scored, labeled.descriptors, [0.0] * len(scored))
    ranked = {name: choose(name, scored, labeled, len(scored)) for name in STRATEGIES if name != RANDOM}
    ranked["instability"] = unstable(scored)
    found = {name: [choice.scores.case for choice in choices] for name, choices in ranked.items()}
    return found | {WORST: sorted(found["boostmis"], key=lambda case: draft_dice(seen, case))}


def pool_of(seen: dict[str, Any]) -> dict[str, dict[str, float]]:
    """By case of the pool the Dice of its draft, and its place, from 1, in each order."""
    ranks = {name: {case: rank for rank, case in enumerate(order, 1)} for name, order in orders(seen).items()}
    return {
        case: {"dice": draft_dice(seen, case)} | {name: of[case] for name, of in ranks.items() if name != WORST}
        for case in seen["pool"]
    }


def draft_dice(seen: dict[str, Any], case: str) -> float:
    """Of a case of the pool."""
    return round(mean_dice(seen["pool"][case]["dice"]), 5)


def command_of(row: Row, suite: Suite, rounds: int) -> str:
    """The line that makes this row, without the folders of this machine."""
    words = ["python", "benchmarks/annotation.py", "--suite", suite.name, "--strategies", row.strategy]
    words += ["--method", row.method, "--seeds", str(row.seed), "--draws", str(row.draw + 1), "--rounds", str(rounds)]
    words += ["--begin", str(row.begin), "--each", str(row.each), "--iterations", str(row.iterations)]
    return shlex.join(words)


if __name__ == "__main__":
    main()
