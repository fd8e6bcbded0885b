"""Writes what follows from the methods' facts and records: python docs/make_methods.py

These are docs/methods/NAME.md for every method, their index, the gains in which_method.md, and which methods were
measured (nnunet_ssl/methods/measured.yaml, for `nnunet_ssl methods`).
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from nnunet_ssl.catalog import PREFIX, Entry, page, read_catalog, table
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import write_text
from nnunet_ssl.report.comparison import MINUS, Comparison, Group, Row, Section, make_sections, percent
from nnunet_ssl.report.records import SUPERVISED, read_records
from nnunet_ssl.report.wording import labeled

ROOT = Path(__file__).resolve().parents[1]
FOLDER = "docs/methods"
GAINS_PAGE = "docs/which_method.md"
MEASURED = "nnunet_ssl/methods/measured.yaml"
BEGIN, END = "<!-- {}: made by python docs/make_methods.py -->\n\n", "\n\n<!-- end of {} -->"
FIGURES = (
    "Final checkpoint, test cases; mean ± standard deviation over seeds. Largest component: Dice after nnU-Net's\n"
    "postprocessing; distances and the gap closed are without it, and the gap begins at the baseline's runs with the\n"
    "same seeds, where it has them."
)
EARLIER = "earlier-published"  # a name in records
WHAT_EARLIER_IS = f"`{EARLIER}`: the preset `published` before it was corrected, see `docs/findings.md`."
RESULTS = ROOT / "benchmarks" / "results"
STEPS = ROOT / "benchmarks" / "timing" / "step_time_cpu.json"
BASELINE = (
    "Supervised", "none", "nnU-Net as it is, at the length that the overrides set: the baseline for short trainings.",
    "student", "student", "0.5", "1.0", "1.0", "",
)  # fmt: skip
INDEX = """# Methods

Made by `python docs/make_methods.py`; `nnunet_ssl methods` lists the same in the terminal, and `nnunet_ssl methods bcp`
prints a page: formulas, all hyperparameters with the paper's symbols, what we changed for nnU-Net, and what the log
shows, healthy and broken. The trainer of a method is `nnUNetTrainer` and its name: `nnUNetTrainerBCP`.

Cost is that of a step, where 1 is a supervised step on the same patches, labeled and unlabeled; each page says what it
goes into. That is twice nnU-Net's own step, which has the labeled ones alone (0.5), with about twice its activation
memory. The unlabeled batch is as large as the labeled one; halve it with `unlabeled_batch_size` where memory is short.
"Mean of both": prediction costs twice as much, too.

Whether a method helps on your data is not a given: nnU-Net alone is strong, and with the published weights the gain of
most of these methods is small or absent ([which method](../which_method.md)). Train the baseline, compare on cases that
no training saw ([three commands](../compare.md)), and believe only that.

"""
MEASURED_STEPS = """Over passes: a whole step (losses, memories, moving averages, optimizers) over the passes of its
networks, which are its cost. Memory: the most that tensors take at once in a step, in steps of nnU-Net on the labeled
patches. Both as measured in small (2 patches of 32 x 48 x 48 of either kind, a network of 8 to 64 features, {device}),
where what is no pass weighs more than in a training (CAML's 1.14 is 1.02 with 32 to 256 features):
`python {command}`. Empty: not measured.

"""


def pages(results: Path = RESULTS) -> dict[str, str]:
    """The text of every file by its path from the root."""
    sections = make_sections(read_records([results]))
    entries = read_catalog()
    texts = {f"{FOLDER}/{entry.name}.md": page(entry, measured(entry, sections)) for entry in entries}
    which = (ROOT / GAINS_PAGE).read_text(encoding="utf-8")
    texts[GAINS_PAGE] = with_table(which, GAINS_PAGE, "gains", gains(sections))
    return {f"{FOLDER}/README.md": index(entries), MEASURED: suites(entries, sections)} | texts


def measured_step(rows: dict[str, dict[str, float]], name: str) -> tuple[str, str]:
    """Of a method, step over passes and its memory over that of nnU-Net's step; empty where it was not measured."""
    mine, stock = rows.get(PREFIX + name), rows[f"{PREFIX}Supervised"]
    if mine is None:
        return "", ""
    return f"{mine['ratio']:.2f}", f"{mine['memory_mb'] / stock['memory_mb']:.1f}"


def suites(entries: Sequence[Entry], sections: Sequence[Section]) -> str:
    """By method, the suites of the accuracy benchmark that there are records of."""
    lines = ["# made by python docs/make_methods.py"]
    for entry in entries:
        names = {trainer.name for trainer in entry.trainers}
        found = {
            section.suite
            for section in sections
            for comparison in section.comparisons
            if any(row.group.first.method in names for row in comparison.rows)
        }
        lines += [f"{entry.name}: [{', '.join(sorted(found))}]"] if found else []
    return "\n".join(lines) + "\n"


def with_table(text: str, file: str, name: str, made: str) -> str:
    """The text of a file with this table between the two markers of its name.

    Raises:
        InputError: a marker is not there.
    """
    first, last = BEGIN.format(name), END.format(name)
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not end:
        raise InputError(f"{file} needs the lines {first.strip()} and {last.strip()} around its table.")
    return before + begin + made + end + after


def index(entries: Sequence[Entry]) -> str:
    """The page that lists all methods, with what a step costs: in passes, and as measured."""
    record = json.loads(STEPS.read_text(encoding="utf-8"))
    titles = ("method", "paper", "idea", "networks", "predicts", "cost", "over passes", "memory", "needs")
    rows = [row(entry, record["rows"]) for entry in entries]
    how = MEASURED_STEPS.format(device=record["device"], command=record["command"])
    return INDEX + how + table(titles, [*rows, BASELINE]) + "\n"


def gains(sections: Sequence[Section]) -> str:
    """Points of Dice over the baseline: a row per method, a column per suite, length and number of labels.

    Only what a trainer does as it is counts, no preset and no override. What was measured on more suites stands first.
    """
    suites = [(s, c) for s in sections for c in s.comparisons if c.lower and any(map(as_it_is, c.rows))]
    of_methods: dict[str, dict[int, Row]] = {}
    for column, (_, comparison) in enumerate(suites):
        for found in filter(as_it_is, comparison.rows):
            of_methods.setdefault(found.group.first.method, {})[column] = found
    rows = [
        ("baseline's Dice, %", *(spread([record.dice for record in c.lower.records], 100) for _, c in suites)),
        ("all labels", *(signed(c.upper.dice - c.lower.dice) if c.upper else "" for _, c in suites)),
    ]
    for method, cells in sorted(of_methods.items(), key=lambda item: (-len(item[1]), -mean_gain(item[1].values()))):
        given = (gain_cell(cells[i], c) if i in cells else "" for i, (_, c) in enumerate(suites))
        rows.append((method, *given))
    titles = (f"{s.suite}<br>{s.iterations} iterations<br>{labeled(c.labeled)}" for s, c in suites)
    return table(("method", *titles), rows)


def as_it_is(found: Row) -> bool:
    """Whether a row has neither preset nor overrides."""
    return found.group.label == found.group.first.method


def gain_cell(found: Row, comparison: Comparison) -> str:
    """Bold if neither seeds nor test cases leave it to chance; else of a class that the site shows gray.

    That is: both have two seeds or more, none lies among the baseline's, and the report's test over the cases finds it.
    """
    of_baseline = [record.dice for record in comparison.lower.records]
    seeds = [record.dice for record in found.group.records]
    apart = min(seeds) > max(of_baseline) or max(seeds) < min(of_baseline)
    clear = apart and found.verdict in ("better", "worse")
    text = f"{signed(found.gain)} ({len(seeds)})"
    return f"**{text}**" if clear else f'<span class="chance">{text}</span>'


def mean_gain(rows: Iterable[Row]) -> float:
    return statistics.fmean(found.gain for found in rows)


def signed(gain: float) -> str:
    """Points of Dice."""
    return f"{round(100 * gain, 1) + 0:+.1f}".replace("-", MINUS)  # + 0: nothing is -0.0


def row(entry: Entry, steps: dict[str, dict[str, float]]) -> tuple[str, ...]:
    """Of the index; ablations stand behind the idea."""
    _, *others = (f"`{PREFIX}{trainer.name}`" for trainer in entry.trainers)
    idea = f"{entry.idea} Also {', '.join(others)}." if others else entry.idea
    facts = entry.facts
    return (
        f"[{entry.name}]({entry.name}.md)", facts.paper, idea, facts.networks, facts.predicts, facts.cost,
        *measured_step(steps, entry.name), ", ".join(facts.needs),
    )  # fmt: skip


def measured(entry: Entry, sections: Sequence[Section]) -> str:
    """The section of our own figures: a table per suite, length and number of labels, between both bounds."""
    names = {trainer.name for trainer in entry.trainers}
    parts = []
    for section in sections:
        for comparison in section.comparisons:
            if mine := [row for row in comparison.rows if row.group.first.method in names]:
                rows = [
                    line(f"{SUPERVISED}, {labeled(comparison.labeled)}", comparison.lower),
                    *(line(row.group.label, row.group, row.closed) for row in mine),
                    line(f"{SUPERVISED}, all labeled", comparison.upper),
                ]
                heading = f"### {section.title}, {labeled(comparison.labeled)}"
                titles = ("training", "seeds", "Dice %", "largest component", "HD95 mm", "gap closed")
                parts += [heading, table(titles, rows)]
    notes = [FIGURES, *([WHAT_EARLIER_IS] if any(EARLIER in part for part in parts) else [])]
    return "\n\n".join(["## Our figures", *([*notes, *parts] if parts else ["Not measured yet."])])


def line(name: str, group: Group | None, closed: float | None = None) -> tuple[str, ...]:
    """A row of the table; the share of the gap between the bounds is that of the mean Dice."""
    if group is None:
        return name, "0", "not measured yet", "", "", ""
    distances = [mean for r in group.records if (mean := r.metrics["hd95_mm"]["mean"]) is not None]
    return (
        name,
        " ".join(str(record.seed) for record in group.records),
        spread([record.dice for record in group.records], 100),
        "" if group.postprocessed is None else spread([record.postprocessed for record in group.records], 100),
        spread(distances, 1),
        "" if closed is None else percent(closed),
    )


def spread(numbers: list[float], scale: float) -> str:
    """Mean, and standard deviation (n - 1) from two values on."""
    if not numbers:
        return ""
    text = f"{scale * statistics.fmean(numbers):.2f}"
    return text if len(numbers) < 2 else f"{text} ± {scale * statistics.stdev(numbers):.2f}"


def main() -> None:
    texts = pages()
    for name, text in texts.items():
        write_text(ROOT / name, text)
    for file in (ROOT / FOLDER).glob("*.md"):
        if f"{FOLDER}/{file.name}" not in texts:
            file.unlink()


if __name__ == "__main__":
    main()
