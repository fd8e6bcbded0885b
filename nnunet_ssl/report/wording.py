"""The words and numbers of the report as they are printed; a dash where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nnunet_ssl.report.comparison import MINUS, Comparison, Group, Row, Section, percent
from nnunet_ssl.report.records import ALL
from nnunet_ssl.report.significance import LEVEL, smallest_p

if TYPE_CHECKING:
    from nnunet_ssl.report.overlays import Overlay

DASH = "–"


def definition(section: Section) -> str:
    """The definition of a suite in one line, without what is empty."""
    values = {key: value for key, value in section.definition.items() if value not in (None, "", 0, [], {})}
    return " · ".join(f"{key.replace('_', ' ')}: {_plain(value)}" for key, value in values.items() if key != "name")


def title(section: Section, comparison: Comparison) -> str:
    """How many labels the methods of a table have."""
    of_all = f" of {section.definition['units']}" if "units" in section.definition else ""
    labels = "all labels" if comparison.labeled == ALL else labeled(comparison.labeled, of_all)
    return f"{labels}, compared with {comparison.variant}" if comparison.variant else labels


def labeled(cases: int | str, of_all: str = "") -> str:
    """How many cases are labeled; where none is in full, the suite has cases that are so in part."""
    return f"{cases}{of_all} labeled" if cases else "partly labeled"


def conclusion(comparison: Comparison) -> str:
    """What a table says, in plain sentences."""
    if not comparison.methods:
        return "No method was measured here yet."
    if not comparison.lower:
        return "The baseline is missing: nothing can be said about the methods."
    kinds: dict[str, list[str]] = {}
    for row in comparison.rows:
        kind = "one seed" if not row.claim else row.verdict.split(":")[0]
        kinds.setdefault(kind, []).append(f"{row.group.label} {signed(row.gain)}")
    sentences = {
        "better": "Better than the baseline: {}.",
        "no better": "No better than the baseline: {}.",
        "worse": "Worse than the baseline: {}.",
        "one seed": "One seed only, which proves nothing: {}.",
    }
    parts = [sentence.format(", ".join(kinds[kind])) for kind, sentence in sentences.items() if kind in kinds]
    if "better" not in kinds:
        parts.insert(0, "No method is shown to be better than the baseline.")
    return " ".join(parts)


def rows(comparison: Comparison, papers: dict[str, str]) -> list[dict[str, Any]]:
    """The printed table: lower bound, methods, upper bound.

    Args:
        papers: a short citation by method.
    """
    several = len({record.device for group in comparison.groups for record in group.records}) > 1
    lines = [_cells(comparison.lower, comparison, f"baseline, {labeled(comparison.labeled)}", several)]
    for number, row in enumerate(comparison.rows):
        tested = {
            "paper": papers.get(row.group.first.method, ""),
            "gain": signed(row.gain),
            "interval": "" if row.interval is None else f"[{', '.join(map(signed, row.interval))}]",
            "closed": DASH if row.closed is None else percent(row.closed),
            "p": "" if row.p is None else probability(row.p),
            "corrected": probability(row.corrected),
            "verdict": row.verdict,
            "tone": _tone(row),
            "bound": False,
            "number": number,
        }
        lines.append(_cells(row.group, comparison, row.group.label, several) | tested)
    if comparison.labeled != ALL:
        lines.append(_cells(comparison.upper, comparison, "baseline, all labeled", several))
    return lines


def notes(comparison: Comparison) -> list[str]:
    """What has to be known to read the table, sentence by sentence."""
    lower, upper, count = comparison.lower, comparison.upper, len(comparison.methods)
    found = []
    if not lower:
        found.append(f"The baseline with {comparison.labeled} labels has no record: no gain, no gap, no test.")
    elif tested := sum(row.claim for row in comparison.rows):
        methods = "one method" if tested == 1 else f"{tested} methods"
        found.append(f"Paired tests over n = {comparison.n} cases; Holm's correction for {methods}.")
        if smallest_p(comparison.n) * tested > LEVEL:
            found.append("With so few test cases and so many methods no p (Holm) can be small: more cases are needed.")
    if lower and count and lower.seeds == 1:
        found.append("The baseline has one seed: no claim can be made.")
    if comparison.labeled != ALL:
        if not upper:
            found.append("The baseline with all labels has no record: the gap is not known.")
        elif lower and upper.dice <= lower.dice:
            found.append("All labels are no better than the few: there is no gap to close.")
        elif lower:
            found.append(f"The bounds lie {upper.dice - lower.dice:.3f} Dice apart.")
    if alike := [row.group.label for row in comparison.rows if row.better and _is_postprocessing(row.group, lower)]:
        found.append(f"The largest component alone gives the baseline as much: {', '.join(alike)}.")
    if missed := [f"{group.label} {group.missed}" for group in comparison.groups if group.missed]:
        found.append(f"Predictions without a class that is there (Dice 0, no distance), in all: {', '.join(missed)}.")
    return found


def runs(comparison: Comparison) -> list[dict[str, Any]]:
    """Where each record of a table comes from."""
    return [
        {
            "label": f"{group.label}, all" if group is comparison.upper else group.label,
            "seed": record.seed,
            "device": record.device,
            "commit": _commit(record.commit),
            "command": record.command,
        }
        for group in comparison.groups
        for record in group.records
    ]


def versions(comparison: Comparison) -> list[str]:
    """Every set of versions that the runs of a table had."""
    records = [record for group in comparison.groups for record in group.records]
    lines = [", ".join(f"{name} {version}" for name, version in record.versions.items()) for record in records]
    return list(dict.fromkeys(lines))


def overlay_caption(overlay: Overlay) -> str:
    """Which runs a picture of test cases shows."""
    return (
        f"Best, median and worst test case of {overlay.label} by its Dice, seed {overlay.method.seed}, beside the "
        f"baseline, seed {overlay.baseline.seed}; one slice of each case, the numbers are Dice of the whole case."
    )


def signed(value: float | None, digits: int = 3) -> str:
    """A difference with its sign; what rounds to zero has that of zero."""
    return DASH if value is None else f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", MINUS)


def probability(p: float | None) -> str:
    """A p-value with three decimals."""
    return DASH if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def duration(seconds: float) -> str:
    """Seconds as people say it."""
    if seconds < 99:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.2g} min" if seconds < 99 * 60 else f"{seconds / 3600:.1f} h"


def _cells(group: Group | None, comparison: Comparison, label: str, several_devices: bool) -> dict[str, Any]:
    """The cells of a bound, or those that methods have in common with bounds."""
    numbers = ("seeds", "dice", "postprocessed", "gain", "closed", "corrected")
    numbers += ("jaccard", "hd95", "asd", "time", "memory")
    texts = ("paper", "verdict", "tone", "spread", "interval", "p", "cost", "number")
    cells = dict.fromkeys(numbers, DASH) | dict.fromkeys(texts, "") | {"label": label, "bound": True}
    if group is None:
        return cells | {"verdict": "no record"}
    reference = comparison.lower.seconds if comparison.lower else {}
    on = {device: f" ({device})" if several_devices else "" for device in {**group.seconds, **group.memory}}
    ratios = {device: seconds / reference[device] for device, seconds in group.seconds.items() if reference.get(device)}
    return cells | {
        "seeds": group.seeds,
        "verdict": "one seed" if group.seeds == 1 else "",
        "dice": f"{group.dice:.3f}",
        "spread": "" if group.spread is None else f"± {group.spread:.3f}",
        "postprocessed": _number(group.postprocessed, ".3f"),
        "jaccard": _number(group.metric("jaccard"), ".3f"),
        "hd95": _number(group.metric("hd95_mm"), ".2f"),
        "asd": _number(group.metric("asd_mm"), ".2f"),
        "time": _joined(f"{duration(seconds)}{on[device]}" for device, seconds in group.seconds.items()),
        "cost": ", ".join(f"×{ratio:.1f}{on[device]}" for device, ratio in ratios.items()),
        "memory": _joined(f"{value / 1024:.1f} GB{on[device]}" for device, value in group.memory.items()),
    }


def _is_postprocessing(group: Group, lower: Group) -> bool:
    """Whether a method is no better than the baseline once both are postprocessed."""
    values = (group.postprocessed, lower.beside(group).postprocessed)
    return None not in values and values[0] <= values[1]


def _tone(row: Row) -> str:
    return "better" if row.better else "worse" if row.verdict == "worse" else ""


def _commit(commit: str | None) -> str:
    if commit is None:
        return DASH
    head, _, state = commit.partition("-")
    return f"{head[:10]}-{state}" if state else head[:10]


def _joined(parts: Any) -> str:
    return ", ".join(parts) or DASH


def _number(value: float | None, form: str) -> str:
    return DASH if value is None else f"{value:{form}}"


def _plain(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        pairs = all(isinstance(item, (list, tuple)) and len(item) == 2 for item in value)
        return ", ".join(f"{item[0]} {_plain(item[1])}" for item in value) if pairs else _sequence(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _sequence(values: Sequence[Any]) -> str:
    numbers = all(isinstance(value, (int, float)) for value in values)
    return " × ".join(map(_plain, values)) if numbers else ", ".join(map(str, values))
