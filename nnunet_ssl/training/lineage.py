"""Where weights come from, and whether they may go on, be validated or label cases on a fold as it is now.

Labels that a fold hides or validates on never reach it by way of weights that have learned them: not by `--c`, not by
`--val`, not by `-pretrained_weights`, not by a first stage's predictions or by pseudo-labels. Nothing lifts this. What
else has changed must be said to be meant: `accept_other_data` in `nnUNet_ssl_config`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nnunet_ssl.checkpoints import CHECKPOINT_KEY, FOREIGN, load_as_data
from nnunet_ssl.data.origin import (
    NAMES,
    ORIGIN_FILE,
    Origin,
    data_differences,
    fold_differences,
    leaked,
    read_origin,
    setting_differences,
)
from nnunet_ssl.data.previous_stage import MARK, digest_of, read_mark
from nnunet_ssl.data.raw import listed
from nnunet_ssl.errors import InputError
from nnunet_ssl.training.settings import VARIABLE

KEY = "origin"  # in our entry of a checkpoint
EARLIER = "earlier_training"
IF_MEANT = f"set accept_other_data: true in {VARIABLE}"
UNKNOWN = "nobody can tell which labels it has learned"
Say = Callable[[str], Any]


def origin_in(checkpoint: Any, file: str | Path) -> Origin | None:
    """The origin that a checkpoint carries; None for one of a stock trainer or an older version.

    Raises:
        InputError: it is damaged; names `file`.
    """
    ours = checkpoint.get(CHECKPOINT_KEY) if isinstance(checkpoint, dict) else None
    content = ours.get(KEY) if isinstance(ours, dict) else None
    return None if content is None else Origin.from_dict(content, Path(file))


def origin_of(file: Path) -> Origin | None:
    """The same of a file; None also for one that holds more than data, which none of ours does."""
    try:
        return origin_in(load_as_data(file, "cpu"), file)
    except FOREIGN:
        return None


def refuse_leaks(before: Origin, now: Origin, what: str, remedy: str) -> None:
    """Raises InputError if `what`, of the origin `before`, has learned what the fold has without a label now."""
    if cases := leaked(before, now):
        raise InputError(
            f"{what} has learned {len(cases)} label(s) that fold {now.fold} now hides or validates on "
            f"({listed(cases, separator=', ')}): {remedy}."
        )


def loaded(before: Origin | None, now: Origin, file: str, accept: bool, say: Say) -> Origin | None:
    """The origin of a checkpoint that is loaded, to be validated (`--val`) or continued.

    Args:
        before: the checkpoint's; None if it is unknown.
        accept: whether other data are meant.
        say: prints a line to the log.

    Raises:
        InputError: it has learned what the fold validates on or hides, or the plans are not said to be meant.
    """
    if before is None:
        say(f"{file} is of an earlier version: {UNKNOWN}")
        return None
    remedy = "train the fold anew, without --c, or put the splits_final.json of its training back"
    refuse_leaks(before, now, file, remedy)
    if before.plans_fingerprint != now.plans_fingerprint and not accept:
        raise InputError(
            f"{file} was trained with other plans than {now.plans} is now: train the fold anew, or put the plans back; "
            f"if this is meant, {IF_MEANT}."
        )
    return before


def continued(before: Origin | None, now: Origin, what: str, epoch: int, accept: bool, say: Say) -> Origin:
    """The origin of a training that goes on from a checkpoint, as `--c` has it; another length is said and recorded.

    Args:
        what: the checkpoint, for the message.

    Raises:
        InputError: as `loaded`, or other data than the fold's are not said to be meant, or the origin is unknown where
            labels are hidden.
    """
    if before is None:
        _refuse_unknown(now, f"{what} is of an earlier version", "train the fold anew, without --c", accept)
        return now.after(None, f"continued from epoch {epoch} of a training whose data are unknown")
    changed = data_differences(before, now)
    if changed and not accept:
        raise InputError(
            f"{what} was trained on other data than fold {now.fold} has now: {'; '.join(changed)}. Train the fold "
            f"anew, without --c, or put its data back; if this is meant, {IF_MEANT}."
        )
    changed += setting_differences(before, now)
    if not changed:
        return now.after(before)
    say(f"ATTENTION: this training goes on with a change: {'; '.join(changed)}")
    return now.after(before, f"continued from epoch {epoch}: {'; '.join(changed)}")


def begun_with(file: str, content: dict[str, Any], now: Origin, accept: bool, say: Say) -> Origin:
    """The origin of a training that begins with the weights of a file, as `-pretrained_weights` has it.

    Args:
        content: of the file.

    Raises:
        InputError: they have learned labels of this dataset that the fold hides or validates on, or it is unknown
            whether they have where labels are hidden.
    """
    what = f"-pretrained_weights {file}"
    before = origin_in(content, file)
    dataset = before.dataset if before else _dataset_of(content)
    name = Path(file).name
    if dataset not in (None, now.dataset):
        say(f"{what}: weights of {dataset}, no case of which is one of {now.dataset}")
        return now.after(now, f"began with weights of {dataset} ({name})")
    if before is None:
        _refuse_unknown(now, f"{what} carries no record of its data", "take other weights", accept)
        say(f"{what} carries no record of its data: {UNKNOWN}")
        return now.after(None, f"began with weights whose data are unknown ({name})")
    refuse_leaks(before, now, what, "take weights that have not")
    training = f"{before.trainer}, {before.configuration}, fold {before.fold}"
    say(f"{what}: weights of {training}, which have learned {len(before.learned)} labels, none that the fold hides")
    return now.after(before, f"began with weights of {training} ({name})")


def check_first_stage(folder: Path, now: Origin, remedy: str, accept: bool, say: Say) -> Origin:
    """The origin of a training on what the first stage predicted for the cases that the fold sees without a label.

    Args:
        folder: of the predictions, see `nnunet_ssl.data.previous_stage`.
        remedy: what to do, for the message; a sentence.

    Raises:
        InputError: another checkpoint predicted them than the first stage's of today; or its network has learned labels
            that the fold hides or validates on, was trained on another split that is not said to be meant, or is
            unknown where labels are hidden.
    """
    mark, remedy = read_mark(folder), remedy.removesuffix(".")
    checkpoint = folder.parents[1] / "checkpoint_final.pth"
    if mark and checkpoint.is_file() and mark["checkpoint"] != digest_of(checkpoint):
        raise InputError(f"{folder} was predicted by another checkpoint than {checkpoint} is now: {remedy}.")
    maker = Origin.from_dict(mark["origin"], folder / MARK) if mark.get("origin") else None
    if maker is None:
        _refuse_unknown(now, f"{folder} does not tell which network predicted", remedy, accept)
        say(f"{folder} does not tell which network predicted: {UNKNOWN}")
        return now.joined(None)
    refuse_leaks(maker, now, f"The network that predicted {folder}", f"train the first stage anew, then {remedy}")
    if changed := fold_differences(maker, now):
        what = f"{folder} was predicted by a network of another split: {'; '.join(changed)}"
        if not accept:
            raise InputError(f"{what}: {remedy}; if this is meant, {IF_MEANT}.")
        say(f"ATTENTION: {what}")
    return now.joined(maker)


def check_pseudo_labels(folder: Path, now: Origin, remedy: str) -> None:
    """Raises InputError for pseudo-labels by a network from which the training at hand does not come."""
    maker = read_origin(folder)
    if maker is None and not now.complete:  # of an earlier version, as what has been continued is
        return
    same = maker is not None and all(getattr(maker, key) == getattr(now, key) for key in NAMES)
    if not (same and {*maker.learned} <= {*now.learned}):
        raise InputError(f"{folder} holds pseudo-labels of another training: {remedy.removesuffix('.')}.")


def set_aside(fold_folder: Path, say: Say) -> None:
    """Moves what is left of an earlier training out of the way; one generation is kept.

    That is checkpoints, validation, what was predicted of the test cases, and origin.

    Else a new training that is cut off would leave them as its own: nnU-Net goes on from a `checkpoint_final` first.
    """
    names = (ORIGIN_FILE, "validation", "test")
    found = [*fold_folder.glob("checkpoint_*.pth"), *(fold_folder / name for name in names)]
    if not (found := [path for path in found if path.exists()]):
        return
    target = fold_folder / EARLIER
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for path in found:
        os.replace(path, target / path.name)
    say(f"An earlier training of this fold lies in {target} now: {listed([path.name for path in found])}")


def _refuse_unknown(now: Origin, what: str, remedy: str, accept: bool) -> None:
    """Raises InputError if the fold hides labels and weights that may have learned them are not said to be meant."""
    if now.hidden and not accept:
        raise InputError(
            f"{what}: {UNKNOWN}, and fold {now.fold} hides {len(now.hidden)}. If you know that it has learned none of "
            f"these, {IF_MEANT}; else {remedy}."
        )


def _dataset_of(checkpoint: Any) -> str | None:
    """The dataset that a checkpoint of nnU-Net was trained on; None if it does not tell."""
    try:
        name = checkpoint["init_args"]["plans"]["dataset_name"]
    except (KeyError, TypeError):
        return None
    return name if isinstance(name, str) else None
