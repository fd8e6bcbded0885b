"""Where the second stage of nnU-Net's cascade finds what the first stage predicted.

At the end of each training of the first stage nnU-Net predicts the cases that the fold validates on, all folds into one
folder. `nnunet_ssl predict_next_stage` predicts what a fold sees without a label, the unlabeled cases and those whose
label the fold hides, with the network of that fold alone and into a folder of the fold::

    nnUNetTrainerMeanTeacher__nnUNetPlans__3d_lowres/
        predicted_next_stage/3d_cascade_fullres/CASE.b2nd               labeled cases, by nnU-Net
        fold_0/predicted_next_stage/3d_cascade_fullres/CASE.b2nd        what fold 0 sees without a label
        fold_0/predicted_next_stage/3d_cascade_fullres/first_stage.json the checkpoint that predicted

There is no average over folds: the networks of the other folds know labels that this fold hides or validates on, and
their predictions would carry them over. Files are segmentations (*spatial) in the shape of the second stage's images.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from nnunet_ssl.data.raw import listed
from nnunet_ssl.errors import InputError


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
