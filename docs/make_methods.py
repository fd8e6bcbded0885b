"""Writes docs/methods/NAME.md for every method, their index, README's table of them, and which methods were measured
(nnunet_ssl/methods/measured.yaml, for `nnunet_ssl methods`): python docs/make_methods.py"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from nnunet_ssl.catalog import PREFIX, Entry, page, read_catalog, table
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import write_text
from nnunet_ssl.report.comparison import Group, Section, make_sections, percent
from nnunet_ssl.report.records import SUPERVISED, read_records

ROOT = Path(__file__).resolve().parents[1]
FOLDER = "docs/methods"
MEASURED = "nnunet_ssl/methods/measured.yaml"
BEGIN, END = "<!-- methods: made by python docs/make_methods.py -->\n\n", "\n\n<!-- end of methods -->"
FIGURES = (
    "Final checkpoint, test cases; mean ± standard deviation over seeds. Largest component: Dice after nnU-Net's\n"
    "postprocessing; distances and the gap closed are without it."
)
EARLIER = "earlier-published"  # a name in records
WHAT_EARLIER_IS = f"`{EARLIER}`: the preset `published` before it was corrected, see `docs/findings.md`."
RESULTS = ROOT / "benchmarks" / "results"
BASELINE = (
    f"`{PREFIX}Supervised`", "nnU-Net as it is, at the length that the overrides set: the baseline for short trainings",
    "0.5: no unlabeled patches", "student",
)  # fmt: skip


def pages(results: Path = RESULTS) -> dict[str, str]:
    """The text of every file by its path from the root."""
    sections = make_sections(read_records([results]))
    entries = read_catalog()
    rows = [
        (
            f"[{entry.name}]({entry.name}.md)",
            entry.facts.paper,
            entry.facts.networks,
            entry.facts.cost,
            ", ".join(entry.facts.needs),
            entry.idea,
        )
        for entry in entries
    ]
    index = (
        "# Methods\n\nMade by `python docs/make_methods.py`; `nnunet_ssl methods` shows the same in the terminal.\n\n"
        "Cost is that of a step, where 1 is a supervised step on the same patches, labeled and unlabeled. The stock\n"
        "trainer has the labeled ones alone: with equal batches its step costs 0.5.\n\n"
        + table(("method", "paper", "networks", "cost", "needs", "idea"), rows)
        + "\n"
    )
    texts = {f"{FOLDER}/{entry.name}.md": page(entry, measured(entry, sections)) for entry in entries}
    readme = with_table((ROOT / "README.md").read_text(encoding="utf-8"), entries)
    return {"README.md": readme, f"{FOLDER}/README.md": index, MEASURED: suites(entries, sections)} | texts


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


def with_table(readme: str, entries: Sequence[Entry]) -> str:
    """README with the table of these methods between its two markers.

    Raises:
        InputError: a marker is not there.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise InputError(f"README.md needs the lines {BEGIN.strip()} and {END.strip()} around its table of methods.")
    rows = [*map(row, entries), BASELINE]
    titles = ("trainer", "method", "cost of a step", "predicts")
    return before + begin + table(titles, rows) + end + after


def row(entry: Entry) -> tuple[str, ...]:
    """Of README's table; ablations stand behind the idea."""
    plain, *others = (f"`{PREFIX}{trainer.name}`" for trainer in entry.trainers)
    also = f". Also {', '.join(others)}" if others else ""
    idea = f"{entry.idea.removesuffix('.')}; {entry.facts.paper}{also}"
    return plain, idea, f"{entry.facts.cost}: {entry.facts.cost_detail}", entry.facts.predicts


def measured(entry: Entry, sections: Sequence[Section]) -> str:
    """The section of our own figures: a table per suite, length and number of labels, between both bounds."""
    names = {trainer.name for trainer in entry.trainers}
    parts = []
    for section in sections:
        for comparison in section.comparisons:
            if mine := [row for row in comparison.rows if row.group.first.method in names]:
                rows = [
                    line(f"{SUPERVISED}, {comparison.labeled} labeled", comparison.lower),
                    *(line(row.group.label, row.group, row.closed) for row in mine),
                    line(f"{SUPERVISED}, all labeled", comparison.upper),
                ]
                heading = f"### {section.title}, {comparison.labeled} labeled"
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
