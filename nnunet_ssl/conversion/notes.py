"""What a converter left out, repaired or assumed: for ``conversion.json``, and the last lines of the command."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from nnunet_ssl.data.raw import listed


@dataclass(frozen=True)
class Note:
    """One kind of thing that was left out, repaired or assumed, with the cases that it concerns.

    Attributes:
        what: what was done, as a phrase that the cases can follow: "left out".
        why: the reason, as a phrase.
        cases: ids; None for the whole data set.
        measured: case -> quantity with its unit -> value, where there is something to measure.
    """

    what: str
    why: str
    cases: tuple[str, ...] | None = None
    measured: dict[str, dict[str, float]] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """The entry of ``conversion.json``."""
        cases = "all" if self.cases is None else list(self.cases)
        return {"what": self.what, "cases": cases, "why": self.why} | (
            {"measured": self.measured} if self.measured else {}
        )


def merged(notes: Iterable[Note]) -> list[Note]:
    """The notes, those that say the same of several cases put together, in the order in which they first appear."""
    together: dict[tuple[str, str], Note] = {}
    for note in notes:
        first = together.setdefault((note.what, note.why), replace(note, cases=() if note.cases is not None else None))
        if note.cases is not None and first.cases is not None:
            cases = dict.fromkeys((*first.cases, *note.cases))
            first = replace(first, cases=tuple(cases), measured={**first.measured, **note.measured})
            together[note.what, note.why] = first
    return list(together.values())


def in_words(record: dict[str, Any]) -> str:
    """One line on an entry of ``conversion.json``, at most ten of its cases by name."""
    cases = record["cases"]
    parts = ["all cases" if cases == "all" else listed(cases, separator=", ")]
    if cases != "all" and len(cases) > 1:
        parts[0] = f"{len(cases)} cases: {parts[0]}"
    measured = list(record.get("measured", {}).values())
    for quantity in measured[0] if measured else ():
        values = sorted(values[quantity] for values in measured)
        parts.append(f"{quantity} " + " to ".join(dict.fromkeys(f"{value:.3g}" for value in (values[0], values[-1]))))
    return f"{record['what']} ({'; '.join(parts)}): {record['why']}."
