"""What `nnunet_ssl adopt` has taken into a dataset: `adopted.json`, in the raw and in the preprocessed folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nnunet_ssl.errors import InputError
from nnunet_ssl.files import read_json

RECORD = "adopted.json"
FORMAT = 1
ADVICE = "mend it or move it away"


def read_record(folder: Path) -> dict[str, Any]:
    """What was adopted, `adopted.json`.

    Raises:
        InputError: it is damaged.
    """
    file = folder / RECORD
    content = read_json(file, ADVICE) if file.is_file() else {"format": FORMAT, "adoptions": []}
    if not (
        isinstance(content, dict) and content.get("format") == FORMAT and isinstance(content.get("adoptions"), list)
    ):
        raise InputError(f"{file} has a form that this version does not know: {ADVICE}.")
    return content


def adopted_share(folder: Path) -> float:
    """Of the cases that were suggested last, the share that is labeled since the last adoption.

    0 where nothing was adopted, or no suggestion stood beside the labels.

    Raises:
        InputError: the record is damaged.
    """
    adoptions = read_record(folder)["adoptions"]
    share = adoptions[-1].get("share_of_suggested", 0.0) if adoptions and isinstance(adoptions[-1], dict) else 0.0
    if not (isinstance(share, (int, float)) and 0 <= share <= 1):
        raise InputError(f"{folder / RECORD}: share_of_suggested is {share!r:.40} and no number from 0 to 1; {ADVICE}.")
    return float(share)
