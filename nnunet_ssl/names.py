"""Names that the user gave: the nearest ones that there are, and how they are drawn."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


def plain(name: str) -> str:
    """A name as people remember it: without case, hyphens and underscores."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def drawn(name: str) -> str:
    """A name as a picture shows it unchanged.

    Matplotlib reads a formula between two dollars, and ends with an error where it is none; and a legend has no entry
    for a label that begins with an underscore.
    """
    return " " * name.startswith("_") + name.replace("$", r"\$")


def suggestion(name: str, known: Iterable[str]) -> str:
    """`Did you mean CPS? There are ACMT, CPS, UAMT.`; names that differ in case and hyphens alone are the nearest."""
    names = list(dict.fromkeys(known))
    by_plain = {plain(each): each for each in names}
    near = [by_plain[match] for match in difflib.get_close_matches(plain(name), by_plain, n=3)]
    question = f"Did you mean {' or '.join(near)}? " if near else ""
    return question + (f"There are {', '.join(names)}." if names else "There are none.")
