"""What the user called by a name that nothing has: the nearest names, and all that there are."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


def plain(name: str) -> str:
    """A name as people remember it: without case, hyphens and underscores."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def suggestion(name: str, known: Iterable[str]) -> str:
    """`Did you mean CPS? There are ACMT, CPS, UAMT.`; names that differ in case and hyphens alone are the nearest."""
    names = list(dict.fromkeys(known))
    by_plain = {plain(each): each for each in names}
    near = [by_plain[match] for match in difflib.get_close_matches(plain(name), by_plain, n=3)]
    question = f"Did you mean {' or '.join(near)}? " if near else ""
    return question + (f"There are {', '.join(names)}." if names else "There are none.")
