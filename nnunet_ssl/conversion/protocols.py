"""Which cases of a public data set are labeled, unlabeled, for testing and for validation: published lists, or what the
user says.

Published lists are ``protocols/*.json`` beside the converters, one file per division into training, validation and
test ids. ``labeled`` there names the protocols: the first n training ids, or a list of them. ``refused``, if present,
names published lists that cannot be used, with the reason.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from nnunet_ssl.conversion.notes import Note
from nnunet_ssl.data.raw import listed
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import check_case_ids

PARTS = ("labeled", "unlabeled", "test", "validation")


@dataclass(frozen=True)
class OfThoseThere:
    """What the user wants of the scans that the source holds: those of the lists that it lacks are left out."""

    labeled: "Labeled"


Labeled = int | str | Path | OfThoseThere | None
"""A number of cases (the first of the training list), a percentage (``"10%"``), the name of a published protocol
(``"dhc-20"``), a file with one id a line, or None for the default of the data set; or one of these of what is there."""


@dataclass(frozen=True)
class Lists:
    """A division of a data set, each list in its published order.

    Attributes:
        origin: where the lists are from, for messages: "published lists", "lists of the source".
    """

    train: list[str]
    test: list[str]
    validation: list[str] = field(default_factory=list)
    origin: str = "published lists"


@dataclass(frozen=True)
class Choice:
    """The ids of each part in the order of the protocol, what to record of the choice, and what was left out.

    A part ``validation`` is there only where it is wanted and not empty; else nnU-Net divides the labeled cases.
    """

    parts: dict[str, list[str]]
    record: dict[str, Any]
    notes: list[Note]
    skip_missing: bool = False

    def present(self, found: Collection[str], source: Path) -> "Choice":
        """The choice without the ids that the source lacks, if the user asked for that.

        Raises:
            InputError: the source lacks ids, and names them; or all that are labeled.
        """
        wanted = [name for names in self.parts.values() for name in names]
        if not (missing := [name for name in wanted if name not in found]):
            return self
        lacks = f"{source} lacks scans of the {self.record['lists']}: {listed(missing, separator=', ')}."
        if not self.skip_missing:
            raise InputError(f"{lacks} Add them, or go on without them, which is no published split: --skip-missing.")
        parts = {part: [name for name in names if name in found] for part, names in self.parts.items()}
        if not parts["labeled"]:
            raise InputError(f"{lacks} No labeled one is left: name others with --labeled-list.")
        record = {key: value for key, value in self.record.items() if key != "protocol"} | {"missing": missing}
        note = Note("left out, as --skip-missing says", f"{source} lacks them; no published split", tuple(missing))
        return replace(self, parts=parts, record=record, notes=[*self.notes, note])

    def unused(self, found: Collection[str]) -> list[Note]:
        """A note on what the source holds and no list names, as a list of none or one."""
        used = {name for names in self.parts.values() for name in names} | set(self.record.get("validation", []))
        rest = sorted(name for name in found if name not in used)
        return [Note("in the source but not used", f"not in the {self.record['lists']}", tuple(rest))] if rest else []


def published(dataset: str) -> dict[str, dict[str, Any]]:
    """The published protocols of a data set by name: the contents of the file that each is in."""
    folder = files("nnunet_ssl.dataset_conversion") / "protocols"
    protocols = {}
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if re.fullmatch(rf"{dataset}(_.+)?\.json", file.name):
            content = json.loads(file.read_text(encoding="utf-8"))
            protocols.update(dict.fromkeys(content["labeled"], content))
    return protocols


def choose(
    dataset: str,
    labeled: Labeled,
    default: str,
    own: Lists | None = None,
    keep: Callable[[str], bool] | None = None,
    because: str = "",
    validate: bool = False,
) -> Choice:
    """Chooses the labeled, unlabeled, test and validation ids of a data set.

    Args:
        dataset: the data set as its files in ``protocols/`` are named.
        labeled: what the user wants, see :data:`Labeled`.
        default: the protocol, or the percentage, when the user says nothing.
        own: lists to use in place of the published ones (a protocol that the user names still leads).
        keep: which ids of the lists to use; None for all.
        because: why the others are left out.
        validate: whether the validation cases of the lists are used, as a part of their own.

    Raises:
        InputError: unknown protocol; an id in two lists; a choice that the lists cannot satisfy.
    """
    skip_missing = isinstance(labeled, OfThoseThere)
    labeled = labeled.labeled if isinstance(labeled, OfThoseThere) else labeled
    protocols = published(dataset)
    named = isinstance(labeled, str) and not labeled.endswith("%")
    if named and labeled not in protocols:
        known = f"Known here: {', '.join(protocols)}." if protocols else "There are none for this data set."
        why_not = {name: why for content in protocols.values() for name, why in content.get("refused", {}).items()}
        if labeled in why_not:
            raise InputError(f"Protocol {labeled} is not offered: {why_not[labeled]} {known}")
        raise InputError(f"Unknown protocol '{labeled}'. {known}")
    wanted = default if labeled is None else labeled
    content = protocols.get(wanted if named else default)
    lists = own
    if own is None or named:
        lists = Lists(content["train"], content["test"], content["validation"])
    is_published = content is not None and (lists.train, lists.test) == (content["train"], content["test"])
    record = {
        "name": content["title"] if is_published else f"{dataset.upper()}, own lists",
        "lists": lists.origin,
    }
    if isinstance(wanted, str) and wanted in protocols:
        wanted = content["labeled"][wanted]
    notes = []
    if keep is not None:
        kept = {part: [name for name in getattr(lists, part) if keep(name)] for part in ("train", "test", "validation")}
        if left_out := [name for name in lists.train + lists.test + lists.validation if not keep(name)]:
            notes.append(Note(f"left out of the {lists.origin}", because, tuple(left_out)))
        lists = Lists(**kept, origin=lists.origin)
    if both := [name for name in lists.train if name in lists.test]:
        raise InputError(f"In train.list and in test.list: {listed(both, separator=', ')}. Take them out of one list.")
    if isinstance(wanted, list):
        chosen = _labeled_of(wanted, lists.train)
        if not chosen:
            raise InputError(f"Protocol {labeled or default} has no labeled case left with these options.")
        rest = [name for name in lists.train if name not in chosen]
        record["labeled"] = "list of the protocol"
    else:
        chosen, rest = choose_labeled(lists.train, lists.test, wanted)
        record["labeled"] = "own list" if isinstance(wanted, Path) else f"first {len(chosen)} of the training list"
    if is_published:
        # By what was chosen, not by how it was said: --labeled 8 and ua-mt-8 are the same conversion.
        for name, labeled_there in content["labeled"].items():
            if chosen == _labeled_of(labeled_there, lists.train):
                record["protocol"] = name
    parts = {"labeled": chosen, "unlabeled": rest, "test": lists.test}
    if lists.validation and validate:
        parts["validation"] = lists.validation
    elif lists.validation:
        record["validation"] = lists.validation
        notes.append(Note("not used", f"validation cases of the {lists.origin}", tuple(lists.validation)))
    return Choice(parts, record, notes, skip_missing)


def _labeled_of(protocol: int | list[str], train: list[str]) -> list[str]:
    return train[:protocol] if isinstance(protocol, int) else [name for name in protocol if name in train]


def choose_labeled(train: list[str], test: list[str], labeled: int | str | Path) -> tuple[list[str], list[str]]:
    """Divides the training list into labeled and unlabeled ids.

    Args:
        labeled: the number of labeled cases (the first of ``train``); a percentage, rounded down but at least one
            case, as the published protocols count; or a file with one id a line.

    Returns:
        The labeled ids (in the order of the file if one is given) and the rest of ``train`` in its order.

    Raises:
        InputError: more labeled cases than training cases; or ids of the file that are test cases or unknown.
    """
    if isinstance(labeled, str):
        percent = float(labeled.removesuffix("%"))
        if not 0 < percent <= 100:
            raise InputError(f"{labeled} labeled cases were asked for: choose more than 0% and at most 100%.")
        # without the rounding 7% of 100 would be 7.000000000000001, and 29% of 100 be 28.999999999999996
        labeled = max(1, int(round(len(train) * percent / 100, 6)))
    if isinstance(labeled, int):
        if not 1 <= labeled <= len(train):
            raise InputError(f"{labeled} labeled cases were asked for: choose 1 to {len(train)} (the training list).")
        return train[:labeled], train[labeled:]
    chosen = read_ids(labeled)
    if in_test := [name for name in chosen if name in test]:
        raise InputError(f"{labeled} names test cases as labeled: {listed(in_test, separator=', ')}. Take them out.")
    if unknown := [name for name in chosen if name not in train]:
        raise InputError(f"{labeled} names cases that are not in the training list: {listed(unknown, separator=', ')}.")
    return chosen, [name for name in train if name not in chosen]


def wanted_labeled(
    labeled: str | None, labeled_list: Path | None, protocol: str | None, skip_missing: bool = False
) -> Labeled:
    """What the options ``--labeled``, ``--labeled-list``, ``--protocol`` and ``--skip-missing`` together say.

    Raises:
        InputError: more than one is given.
    """
    given = [value for value in (labeled, labeled_list, protocol) if value is not None]
    if len(given) > 1:
        raise InputError("Give one of --labeled, --labeled-list and --protocol, not both.")
    if skip_missing:
        return OfThoseThere(wanted_labeled(labeled, labeled_list, protocol))
    if not given:
        return None
    if labeled is None:
        return protocol or labeled_list
    if re.fullmatch(r"-?\d{1,9}", labeled):
        return int(labeled)
    return labeled if re.fullmatch(r"-?\d{1,9}(\.\d{1,9})?%", labeled) else Path(labeled)


def read_ids(path: Path) -> list[str]:
    """The ids of a list file, one a line, in order; blank lines are skipped.

    Raises:
        InputError: the file is missing, no text, empty, or names an id twice.
    """
    try:
        ids = [line.strip() for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read the list {str(path)[:500]} ({getattr(error, 'strerror', error)}).") from error
    if not ids:
        raise InputError(f"{path} is empty. Write one case id a line.")
    check_case_ids(ids, path)
    if twice := sorted(name for name, count in Counter(ids).items() if count > 1):
        raise InputError(f"{path} names more than once: {listed(twice, separator=', ')}. Keep one line of each.")
    return ids
