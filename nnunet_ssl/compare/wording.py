"""What a comparison says: sentences, and the numbers of its table as they are printed; a dash where there is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nnunet_ssl.data.raw import listed
from nnunet_ssl.data.space import in_words
from nnunet_ssl.report.differences import METRICS
from nnunet_ssl.report.significance import LEVEL, smallest_p
from nnunet_ssl.report.wording import DASH, probability, signed
from nnunet_ssl.results.seen import seen_in_words

MEAN = "all classes"
FORMS = {"dice": ".3f", "hd95_mm": ".2f", "asd_mm": ".2f"}
TITLES = {"dice": "Dice", "hd95_mm": "HD95 mm", "asd_mm": "ASD mm"}
READING = (
    "Dice, HD95 and ASD: mean over the cases, as nnunet_ssl evaluate has them; all classes: mean of the classes.",
    "Difference: mean over the cases of method minus baseline, in brackets the interval that holds it with 95 % "
    "confidence (bootstrap over cases, seeded); a case's classes are averaged first.",
    "p: Wilcoxon's signed-rank test, two-sided, paired by case; below all classes corrected for the number of methods "
    "(Holm), by class as it is.",
    "Missed: cases whose prediction lacks a class that is there (Dice 0, no distance, left out of the mean distances). "
    "Spurious: cases whose prediction has a class that is not there (no value tells of it).",
    "Test and interval know the chance of the cases, not that of a training: with another seed either model differs.",
)


def verdict(difference: Mapping[str, Any]) -> str:
    """Of all classes' Dice: better, worse, no difference shown, or nothing to test."""
    if difference["p"] is None:
        return "not measured"
    if difference["corrected"] < LEVEL:
        return "better" if difference["mean"] > 0 else "worse"
    return "no difference shown"


def conclusion(content: Mapping[str, Any], method: str) -> str:
    """One line: what the differences of Dice mean."""
    dice, baseline = content["methods"][method]["dice"], content["baseline"]
    if dice["p"] is None:
        return f"{method} against {baseline}: no case has a class to measure, so nothing can be said."
    better, worse, n = len(dice["better"]), len(dice["worse"]), dice["n"]
    equal = f", equal in {n - better - worse}" if n > better + worse else ""
    counts = f"better in {better} of {_cases(n)}, worse in {worse}{equal}"
    start = f"{method} against {baseline}: Dice {with_interval('dice', dice)}, {counts}."
    several = len(content["methods"]) > 1
    p = dice["corrected"]
    test = f"(p = {probability(p)}, {'exact' if dice['exact'] else 'approximate'}{', corrected' if several else ''})"
    test = test.replace("= <", "<")
    if not better + worse:
        return f"{start} The two are equal."
    chance = f"were neither better, {_how_often(p)} such test sets would differ as much {test}"
    if (found := verdict(dice)) != "no difference shown":
        return f"{start} {method} is {found} here: {chance}."
    if smallest_p(better + worse) * len(content["methods"]) > LEVEL:
        return f"{start} Too few cases to show anything: {chance}, and no outcome of {_cases(n)} could be clear."
    return f"{start} No difference is shown: {chance}."


def rows(content: Mapping[str, Any]) -> list[dict[str, str]]:
    """The table: for each class, and for all, a row for each folder."""
    names = [*content["classes"], *([MEAN] if len(content["classes"]) > 1 else [])]
    measured = content["measured"]
    return [_row(content, name, folder, measured[folder], name == names[-1]) for name in names for folder in measured]


def _row(
    content: Mapping[str, Any], name: str, folder: str, measured: Mapping[str, Any], all_classes: bool
) -> dict[str, str]:
    metrics, spurious = measured["metrics"], measured["spurious"]
    means = {m: metrics[m]["mean"] if all_classes else metrics[m]["per_class"][name] for m in METRICS}
    counts = {"missed": measured["missed"], "spurious": {c: len(cases) for c, cases in spurious.items()}}
    row = {"class": name, "folder": folder, "difference": "", "p": "", "tone": "baseline"}
    row |= {m: DASH if value is None else f"{value:{FORMS[m]}}" for m, value in means.items()}
    row |= {what: str(sum(of.values()) if all_classes else of[name]) for what, of in counts.items()}
    if folder not in content["methods"]:
        return row
    dice = content["methods"][folder]["dice"]
    difference = dice if all_classes else dice["per_class"][name]
    p = probability(difference.get("corrected", difference["p"]))
    tone = verdict(dice) if all_classes else ""
    return row | {"difference": with_interval("dice", difference), "p": p, "tone": tone}


def cases_of(content: Mapping[str, Any], method: str, metric: str = "dice") -> dict[str, list[str]]:
    """What got better and what worse, each case with its difference, the largest first."""
    found = content["methods"][method][metric]
    return {
        what: [f"{case} {_signed(metric, found['per_case'][case])}" for case in found[what]]
        for what in ("better", "worse")
    }


def structures(content: Mapping[str, Any]) -> list[str]:
    """Sentences on what is missed, and found where there is none, by folder and class with the cases."""
    lines = []
    for folder, measured in content["measured"].items():
        dice, distance = (measured["metrics"][m]["per_case"] for m in ("dice", "hd95_mm"))
        for name in content["classes"]:
            missed = [case for case in dice if dice[case][name] is not None and distance[case][name] is None]
            for what, cases in (("misses", missed), ("finds where there is none", measured["spurious"][name])):
                if cases:
                    lines.append(f"{folder} {what}: {name} in {_cases(len(cases))} ({listed(cases, separator=', ')})")
    return lines


def notes(content: Mapping[str, Any]) -> list[str]:
    """What else has to be known: cases without a value, predictions left out, other headers, learned cases."""
    first = next(iter(content["measured"].values()))
    lines = []
    for key, why in (("absent", "is not there"), ("not_annotated", "was not annotated, as dataset.json says,")):
        for name, cases in first[key].items():
            if cases:
                count = "one case" if len(cases) == 1 else _cases(len(cases))
                shown = listed(cases, separator=", ")
                lines.append(f"{name} {why} in {count}, without values for it ({shown}).")
    by_line: dict[str, list[str]] = {}
    for folder, measured in content["measured"].items():
        if out := measured["left_out"]:
            shown = listed(out, separator=", ")
            by_line.setdefault(f"{len(out)} predictions without a reference are left out: {shown}", []).append(folder)
        told = [*in_words(measured["space"], "the prediction", "the reference"), *seen_in_words(measured["seen"])]
        for line in told:
            by_line.setdefault(line, []).append(folder)
    return [*lines, *(f"{', '.join(folders)}: {line}" for line, folders in by_line.items())]


def with_interval(metric: str, difference: Mapping[str, Any]) -> str:
    """`+0.034 [+0.012, +0.055]`; without brackets for one case."""
    if difference["mean"] is None:
        return DASH
    mean = _signed(metric, difference["mean"])
    if difference["interval"] is None:
        return mean
    low, high = (_signed(metric, bound) for bound in difference["interval"])
    return f"{mean} [{low}, {high}]"


def _signed(metric: str, value: float) -> str:
    return signed(value) if metric == "dice" else signed(value, 2)


def _how_often(p: float) -> str:
    return "fewer than 1 in 1000" if p < 0.001 else "most" if p > 0.5 else f"about 1 in {round(1 / p)}"


def _cases(count: int) -> str:
    return "1 case" if count == 1 else f"{count} cases"
