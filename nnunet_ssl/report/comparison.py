"""Records sorted into sections and tables: which runs may be compared, and what comes of it.

A section holds the records of one suite, definition and number of iterations; a table of it, those of one number of
labels between their bounds: the baseline with the same labels and the baseline with all labels.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from nnunet_ssl.errors import InputError
from nnunet_ssl.facts import mapping_text
from nnunet_ssl.report.records import ALL, ROLES, SUPERVISED, Record
from nnunet_ssl.report.significance import LEVEL, bootstrap_interval, holm, paired_p

MINUS = "−"  # as wide as the plus sign
# overrides that every run of an iteration number has, or that its preset tells
LENGTH = {"num_epochs", "num_iterations_per_epoch", "num_val_iterations_per_epoch", "save_every", "preset"}


@dataclass(frozen=True)
class Group:
    """The seeds of one training."""

    records: tuple[Record, ...]

    @property
    def first(self) -> Record:
        return self.records[0]

    @property
    def label(self) -> str:
        """The method, what its runs are called if that is not the default, and its overrides."""
        kind = self.first.name or (self.first.preset if self.first.preset != "default" else "")
        return " ".join(filter(None, (self.first.method, kind and f"({kind})", self.settings)))

    @property
    def settings(self) -> str:
        """Its overrides but for the length of training and what all of its suite have, "" for none."""
        overrides, of_suite = self.first.overrides, self.first.definition
        own = {k: value for k, value in overrides.items() if k not in LENGTH and of_suite.get(k) != value}
        return mapping_text(own) if own else ""

    @property
    def seeds(self) -> int:
        return len(self.records)

    @cached_property
    def dice(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(record.dice for record in self.records)

    @cached_property
    def postprocessed(self) -> float | None:
        """Mean Dice over the seeds after nnU-Net's postprocessing; None if a seed lacks it."""
        values = [record.postprocessed for record in self.records]
        return None if None in values else statistics.fmean(values)

    @property
    def spread(self) -> float | None:
        """Standard deviation (n - 1) of Dice over the seeds; None for one seed."""
        return statistics.stdev(record.dice for record in self.records) if self.seeds > 1 else None

    @property
    def classes(self) -> list[str]:
        return list(self.first.metrics["dice"]["per_class"])

    def beside(self, other: Group) -> Group:
        """Its runs with the seeds of another training, which begin with the same weights; all if it lacks one."""
        seeds = {record.seed for record in other.records}
        shared = tuple(record for record in self.records if record.seed in seeds)
        return Group(shared) if len(shared) == other.seeds else self

    def metric(self, name: str, of_class: str | None = None) -> float | None:
        """Mean over the seeds, of the mean over classes or of one class."""
        values = [r.metrics[name]["per_class"][of_class] if of_class else r.metrics[name]["mean"] for r in self.records]
        return _mean(values)

    def dice_of(self, classes: Sequence[str]) -> float | None:
        """Mean Dice over some classes and the seeds; None if the test cases have none of them."""
        return _mean([self.metric("dice", name) for name in classes])

    def found(self, classes: Sequence[str]) -> float | None:
        """Share, over cases, these classes and seeds, of what is there that a prediction hits with a voxel or more."""
        cases = [case for record in self.records for case in record.metrics["dice"]["per_case"].values()]
        values = [case[name] for case in cases for name in classes if case[name] is not None]
        return _mean([float(value > 0) for value in values])

    @property
    def missed(self) -> int:
        """How often a prediction lacks a class that is there, over cases, classes and seeds: it has no distance."""
        return sum(sum(record.metrics.get("missed", {}).values()) for record in self.records)

    @cached_property
    def case_dice(self) -> dict[str, float]:
        """Dice per test case, mean over the classes that the case has and over the seeds."""
        per_seed = [record.metrics["dice"]["per_case"] for record in self.records]
        values = {case: [_mean(list(seed[case].values())) for seed in per_seed] for case in per_seed[0]}
        return {case: mean for case, found in values.items() if (mean := _mean(found)) is not None}

    @property
    def seconds(self) -> dict[str, float]:
        """Mean training time by device."""
        return self._by_device("wall_seconds")

    @property
    def memory(self) -> dict[str, float]:
        """Mean peak memory in MB by device."""
        return self._by_device("peak_memory_mb")

    def _by_device(self, key: str) -> dict[str, float]:
        devices = dict.fromkeys(record.device for record in self.records)
        values = {d: _mean([getattr(r, key) for r in self.records if r.device == d]) for d in devices}
        return {device: value for device, value in values.items() if value is not None}


@dataclass(frozen=True)
class Row:
    """A method beside its bounds.

    Attributes:
        gain: of Dice over the lower bound's runs with the same seeds; None where that is missing.
        closed: share of the way from the lower to the upper bound; None where a bound is missing or there is no way.
        claim: whether there are enough seeds to say anything: two or more of the method and of the baseline.
        p, corrected: of the paired test against the lower bound, as it is and after Holm's correction in the table;
            None without a claim.
        interval: of the gain, 95 %, over test cases; None without a claim.
    """

    group: Group
    gain: float | None
    closed: float | None
    claim: bool
    p: float | None = None
    corrected: float | None = None
    interval: tuple[float, float] | None = None

    @property
    def better(self) -> bool:
        return self.claim and self.gain is not None and self.gain > 0 and self.corrected < LEVEL

    @property
    def verdict(self) -> str:
        """Against the baseline, in plain words."""
        if self.gain is None:
            return "no baseline"
        if not self.claim:
            return "higher, but one seed: no claim" if self.gain > 0 else "no better; one seed: no claim"
        if self.corrected < LEVEL:
            return "better" if self.gain > 0 else "worse"
        return "no better" if self.gain <= 0 else "no better: within chance"


@dataclass(frozen=True)
class Comparison:
    """One table: methods with the same labels, the best first, and their bounds."""

    labeled: int | str
    lower: Group | None
    upper: Group | None
    methods: tuple[Group, ...]
    variant: str = ""  # of the bounds, where a section has several tables for the same labels

    @property
    def groups(self) -> list[Group]:
        """Lower bound, methods, upper bound."""
        return [group for group in (self.lower, *self.methods, self.upper) if group]

    @property
    def n(self) -> int:
        """Test cases that the paired test has."""
        return len(self.groups[0].case_dice)

    @cached_property
    def rows(self) -> list[Row]:
        """The methods as compared with the bounds."""
        lower, upper = self.lower, self.upper
        if lower is None:
            return [Row(group, None, None, False) for group in self.methods]
        claimed = [group for group in self.methods if min(group.seeds, lower.seeds) > 1]
        pairs = [[(group.case_dice[c], dice) for c, dice in lower.beside(group).case_dice.items()] for group in claimed]
        p = [paired_p(*zip(*pair, strict=True)) for pair in pairs]
        intervals = [bootstrap_interval([method - baseline for method, baseline in pair]) for pair in pairs]
        tested = dict(zip(map(id, claimed), zip(p, holm(p), intervals, strict=True), strict=True))
        return [
            Row(
                group,
                group.dice - beside.dice,
                gap_closed(group.dice, beside.dice, upper.dice) if upper else None,
                id(group) in tested,
                *tested.get(id(group), ()),
            )
            for group, beside in ((group, lower.beside(group)) for group in self.methods)
        ]


@dataclass(frozen=True)
class Section:
    """All tables of one suite, definition and number of iterations."""

    suite: str
    iterations: int
    definition: dict[str, Any]
    comparisons: tuple[Comparison, ...]
    variant: str = ""  # a letter where other definitions have the same suite and iterations

    @property
    def title(self) -> str:
        return f"{self.suite}{f' {self.variant}' if self.variant else ''}, {self.iterations} iterations"

    @property
    def slug(self) -> str:
        """For names of folders."""
        return re.sub(r"[^\w.-]+", "-", "_".join(filter(None, (self.suite, self.variant, str(self.iterations)))))


def gap_closed(value: float, lower: float, upper: float) -> float | None:
    """The share of the way from the lower to the upper bound; None if there is no way."""
    return (value - lower) / (upper - lower) if upper > lower else None


def percent(share: float) -> str:
    """A share as whole percents; nothing is less than 0% that rounds to it."""
    return f"{round(100 * share)}%".replace("-", MINUS)


def make_sections(records: Sequence[Record], baseline: str = SUPERVISED) -> list[Section]:
    """Sorts records into sections and tables.

    Args:
        baseline: the method that is the lower bound; the upper one is it or the supervised one with all labels.

    Raises:
        InputError: the baseline has no record, one run has two, runs of one section have other test cases or classes,
            or runs with the same number of labels were trained on other folds.
    """
    if baseline != SUPERVISED and all(record.method != baseline for record in records):
        raise InputError(f"--baseline {baseline}: there is no record of it.")
    found: dict[tuple[str, int], dict[str, list[Record]]] = {}
    for record in sorted(records, key=lambda r: (r.suite, r.iterations)):
        definitions = found.setdefault((record.suite, record.iterations), {})
        definitions.setdefault(_key(record.definition), []).append(record)
    sections = []
    for (suite, iterations), definitions in found.items():
        for number, members in enumerate(definitions.values()):
            _check_same_cases(members)
            _check_same_folds(members)
            variant = chr(ord("A") + number) if len(definitions) > 1 else ""
            comparisons = tuple(_comparisons(members, baseline))
            sections.append(Section(suite, iterations, members[0].definition, comparisons, variant))
    return sections


def _comparisons(records: Sequence[Record], baseline: str) -> list[Comparison]:
    """The tables of a section by number of labels; overrides that the baseline has, too, make a table of their own."""
    groups = _groups(records, baseline)
    baselines = [group for group in groups if group.first.method == baseline]
    tables: dict[tuple[float, str], list[Group]] = {}
    for group in groups:
        tables.setdefault((_order(group.first.labeled), _key(_regime(group, baselines))), []).append(group)
    bounds = {key: members[0] for key, members in tables.items() if members[0] in baselines}
    uppers = {
        regime: members[0]
        for (order, regime), members in tables.items()
        if order == _order(ALL) and members[0].first.method in (baseline, SUPERVISED)
    }
    comparisons = []
    for (order, regime), members in sorted(tables.items(), key=lambda item: item[0]):
        lower, labeled = bounds.get((order, regime)), members[0].first.labeled
        if labeled == ALL and members == [uppers.get(regime)] and sum(other == regime for _, other in tables) > 1:
            continue  # it is the upper bound of other tables and nothing else
        upper = None if labeled == ALL else uppers.get(regime)
        methods = sorted((group for group in members if group is not lower), key=lambda group: -group.dice)
        several = baseline != SUPERVISED or sum(other == order for other, _ in tables) > 1
        variant = (lower.label if lower else "no baseline") if several else ""
        comparisons.append(Comparison(labeled, lower, upper, tuple(methods), variant))
    return comparisons


def _groups(records: Sequence[Record], baseline: str) -> list[Group]:
    """Records that differ in nothing but the seed, the baseline's first, then the supervised ones."""
    found: dict[tuple, dict[int | None, Record]] = {}
    for r in records:
        seeds = found.setdefault((r.method, r.labeled, r.preset, r.name, _key(r.overrides)), {})
        if r.seed in seeds:
            raise InputError(f"{seeds[r.seed].file} and {r.file} are the same run: keep one of them.")
        seeds[r.seed] = r
    groups = [Group(tuple(seeds[seed] for seed in sorted(seeds, key=_seed_order))) for seeds in found.values()]
    return sorted(groups, key=lambda group: [group.first.method != name for name in (baseline, SUPERVISED)])


def _regime(group: Group, baselines: Sequence[Group]) -> dict[str, Any]:
    """The overrides of the baseline that trains most like a group: all its overrides are the group's, too."""
    own = group.first.overrides.items()
    fitting = [b.first.overrides for b in baselines if b.first.overrides.items() <= own]
    return max(fitting, key=len, default={})


def _check_same_cases(records: Sequence[Record]) -> None:
    def measured(record: Record) -> dict[str, dict[str, bool]]:
        cases = record.metrics["dice"]["per_case"]
        return {case: {name: value is None for name, value in values.items()} for case, values in cases.items()}

    for record in records[1:]:
        if measured(record) != measured(records[0]):
            raise InputError(
                f"{records[0].file} and {record.file} have other test cases or classes: they cannot be compared."
            )


def _check_same_folds(records: Sequence[Record]) -> None:
    """Older records do not tell their folds and are taken as they are."""
    first: dict[int | str, Record] = {}
    for record in (record for record in records if record.origin):
        other = first.setdefault(record.labeled, record)
        if differing := [role for role in ROLES if record.origin[role] != other.origin[role]]:
            raise InputError(
                f"{other.file} and {record.file} were trained on other folds ({', '.join(differing)} differ): they "
                "cannot be compared."
            )


def _order(labeled: int | str) -> float:
    return float("inf") if labeled == ALL else labeled


def _seed_order(seed: int | None) -> int:
    return -1 if seed is None else seed


def _key(content: dict[str, Any]) -> str:
    return json.dumps(content, sort_keys=True)


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return statistics.fmean(present) if present else None
