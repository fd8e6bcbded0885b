"""Where the second stage of nnU-Net's cascade finds what the first stage predicted.

At the end of each training of the first stage nnU-Net predicts the cases that the fold validates on, all folds into one
folder. `nnunet_ssl predict_next_stage` predicts what a fold sees without a label, the unlabeled cases and those whose
label the fold hides, with the network of that fold alone and into a folder of the fold::

    nnUNetTrainerBCP__nnUNetPlans__3d_lowres/
        predicted_next_stage/3d_cascade_fullres/CASE.b2nd               labeled cases, by nnU-Net
        fold_0/predicted_next_stage/3d_cascade_fullres/CASE.b2nd        what fold 0 sees without a label
        fold_0/predicted_next_stage/3d_cascade_fullres/first_stage.json which network predicted: {"checkpoint": sha256,
                                                                        "origin": as in `nnunet_ssl.data.origin`}

There is no average over folds: the networks of the other folds know labels that this fold hides or validates on, and
their predictions would carry them over. Files are segmentations (*spatial) in the shape of the second stage's images.
"""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nnunet_ssl.data.raw import listed
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import read_json, require_keys

MARK = "first_stage.json"


def predictions_folder(shared_folder: str | Path, fold: int | str) -> Path:
    """One fold's predictions of unlabeled cases, beside nnU-Net's `<model>/predicted_next_stage/<second stage>`."""
    shared_folder = Path(shared_folder)
    model = shared_folder.parents[1]
    return model / f"fold_{fold}" / shared_folder.relative_to(model)


def check_predicted(
    folder: str | Path, cases: Iterable[str], kind: str, remedy: str, what: str = "first-stage prediction"
) -> None:
    """Raises `InputError`, with what to do, for cases that a folder lacks; `kind` names the cases, `what` the files."""
    found = {name.rpartition(".")[0] for name in os.listdir(folder)} if os.path.isdir(folder) else set()
    if missing := sorted(set(cases) - found):
        raise InputError(
            f"{len(missing)} {kind} case(s) have no {what} in {folder} ({listed(missing, 5, ', ')}): {remedy}"
        )


def read_mark(folder: Path) -> dict[str, Any]:
    """Which network predicted what lies in a folder; empty if that is not written there.

    Raises:
        InputError: the file is damaged.
    """
    file, advice = Path(folder) / MARK, "remove it and run nnunet_ssl predict_next_stage again"
    if not file.is_file():
        return {}
    mark = read_json(file, advice)
    require_keys(mark, {"checkpoint": (str,)}, file, advice=advice)
    return mark


def digest_of(checkpoint: Path) -> str:
    """sha256 of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with open(checkpoint, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
