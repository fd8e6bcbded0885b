"""Structures that were not annotated in some labeled cases, as ``dataset.json`` tells; nnU-Net passes over the entry::

"not_annotated": {"case_012": ["liver", "spleen"], "case_013": ["liver"]}
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from nnunet_ssl.data.raw import listed
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import check_case_ids, read_json, require_keys

KEY = "not_annotated"
MEND = f'mend "{KEY}"'


def read_not_annotated(dataset_json: dict[str, Any], file: Path) -> dict[str, tuple[str, ...]]:
    """Case id -> names of the classes or regions that were not annotated there; cases without any are left out.

    Args:
        dataset_json: contents of a ``dataset.json``.
        file: where it lies, for messages.

    Raises:
        InputError: it is no such mapping, or names something that is no class or region of the foreground.
    """
    if KEY not in dataset_json:
        return {}
    require_keys(dataset_json, {KEY: (dict,), "labels": (dict,)}, file, advice=MEND)
    declared = dataset_json[KEY]
    check_case_ids(declared, file)
    require_keys(declared, dict.fromkeys(declared, (list,)), file, f"{KEY}.", MEND)
    known = [name for name, value in dataset_json["labels"].items() if name != "ignore" and value not in (0, [0])]
    for case, names in declared.items():
        if unknown := [str(name)[:60] for name in names if name not in known]:
            raise InputError(
                f'{file}: "{KEY}" of {case} names {listed(unknown, separator=", ")}, which is no class or region of '
                f"the foreground. There are {listed(known, separator=', ')}."
            )
    return {case: tuple(dict.fromkeys(names)) for case, names in declared.items() if names}


def check_cases(declared: Collection[str], labeled: Collection[str], file: Path) -> None:
    """Raises InputError for declared cases that are no labeled ones; ``file`` is for the message."""
    if unknown := sorted({*declared} - {*labeled}):
        raise InputError(
            f'{file}: "{KEY}" names {listed(unknown, separator=", ")}, no labeled case(s). Mend or remove the entry.'
        )


def contradiction(case: str, names: Collection[str]) -> str:
    """What is wrong with a case whose label has voxels of classes that were not annotated in it."""
    return (
        f'{case}: its label has voxels of {listed([*names], separator=", ")}, which "{KEY}" of dataset.json says '
        "were not annotated there"
    )


def cases_by_name(declared: dict[str, tuple[str, ...]]) -> dict[str, list[str]]:
    """Class or region -> the cases in which it was not annotated."""
    by_name: dict[str, list[str]] = {}
    for case, names in sorted(declared.items()):
        for name in names:
            by_name.setdefault(name, []).append(case)
    return by_name


def in_words(declared: dict[str, tuple[str, ...]]) -> str:
    """``liver in 2 cases (case_012, case_013), spleen in 1 case (case_012)``."""
    return "; ".join(
        f"{name} in {len(cases)} case{'s' * (len(cases) > 1)} ({listed(cases, separator=', ')})"
        for name, cases in cases_by_name(declared).items()
    )


def of_preprocessed(base: Path) -> dict[str, tuple[str, ...]]:
    """Like :func:`read_not_annotated`, of a dataset's folder in ``nnUNet_preprocessed``; empty without the file."""
    file = Path(base) / "dataset.json"
    return read_not_annotated(read_json(file, MEND), file) if file.is_file() else {}
