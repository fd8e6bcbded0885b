"""What a training is made of: its cases by their role, its plans, its length. Checkpoints and results carry it.

A record of the origin lies in the fold's folder and in each checkpoint. It tells whether a network still belongs to its
fold as `splits_final.json`, plans and unlabeled cases are now, and whether it has learned a label that is hidden now.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

import nnunet_ssl
from nnunet_ssl.data.not_annotated import of_preprocessed
from nnunet_ssl.data.plans import with_inherited
from nnunet_ssl.data.raw import listed
from nnunet_ssl.data.splits import FILE as SPLITS_FILE
from nnunet_ssl.data.splits import read_splits
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import is_plain_name, read_json, require_keys

ORIGIN_FILE = "nnunet_ssl_origin.json"
NNUNET_LENGTH = {"num_epochs": 1000, "num_iterations_per_epoch": 250}
NAMES = ("trainer", "dataset", "configuration", "plans", "fold")
CASE_LISTS = ("train", "val", "hidden", "unlabeled", "learned")
# beside the configuration these decide what a network is trained on
OF_PLANS = ("image_reader_writer", "transpose_forward", "transpose_backward", "label_manager")
OF_PLANS += ("foreground_intensity_properties_per_channel",)
NAMES_IN_CONFIGURATION = ("data_identifier", "inherits_from", "next_stage")
MAY_LACK: dict[str, Any] = {"not_annotated": {}, "stopped": ""}
NEW = {"train": "trained on", "val": "validated on", "hidden": "hidden"}


@dataclass(frozen=True)
class Origin:
    """What a training was made of.

    Attributes:
        version: of this package.
        fold: a number or "all".
        train: case ids, sorted, as all lists here.
        hidden: cases of the labeled folder whose label the fold hides.
        unlabeled: cases of the unlabeled folder; none for a supervised trainer, which does not read them.
        learned: cases whose label the weights have ever learned: `train`, and what earlier parts of a training that was
            continued, pretrained weights and the first stage of a cascade have learned.
        complete: whether `learned` is all; False after weights of unknown origin.
        plans_fingerprint: sha256 of what of the plans decides the training; not of names.
        overrides: all that `nnUNet_ssl_config` asks for, those of its preset included.
        not_annotated: classes or regions that were not annotated in cases of `train`.
        stopped: in words, when and why it ended before `num_epochs`; "" if it did not.
        history: in words, what changed while the training was continued, and what pretrained weights it began with.
    """

    version: str
    trainer: str
    dataset: str
    configuration: str
    plans: str
    fold: int | str
    train: tuple[str, ...]
    val: tuple[str, ...]
    hidden: tuple[str, ...]
    unlabeled: tuple[str, ...]
    learned: tuple[str, ...]
    plans_fingerprint: str
    num_epochs: int
    num_iterations_per_epoch: int
    overrides: dict[str, Any] = field(default_factory=dict)
    complete: bool = True
    history: tuple[str, ...] = ()
    not_annotated: dict[str, list[str]] = field(default_factory=dict)
    stopped: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As JSON and checkpoints hold it; without what earlier versions did not have either, where that is empty."""
        content = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {key: value for key, value in content.items() if key not in MAY_LACK or value}

    @classmethod
    def from_dict(cls, content: Any, source: Path) -> Origin:
        """What `as_dict` gave, read from a file that may come from anyone.

        Raises:
            InputError: it is damaged; names `source`.
        """
        advice = "train the fold again, or take the file from a copy"
        kinds: dict[str, tuple[type, ...]] = dict.fromkeys(("version", *NAMES, "plans_fingerprint"), (str,))
        kinds |= dict.fromkeys((*CASE_LISTS, "history"), (list,)) | dict.fromkeys(NNUNET_LENGTH, (int,))
        kinds |= {"fold": (int, str), "overrides": (dict,), "complete": (bool,)}
        kinds |= {key: (type(empty),) for key, empty in MAY_LACK.items()}
        if isinstance(content, dict):
            content = MAY_LACK | content  # earlier versions knew of none
        require_keys(content, kinds, source, "origin.", advice)
        if unknown := sorted(map(str, content.keys() - kinds.keys())):
            raise InputError(f"{source} holds an origin with unknown keys ({listed(unknown, 3, ', ')[:90]}): {advice}.")
        for key in CASE_LISTS:
            if not all(map(is_plain_name, content[key])):
                raise InputError(f"{source}: origin.{key} must list case ids: {advice}.")
        if isinstance(content["fold"], str) and content["fold"] != "all":
            raise InputError(f"{source}: origin.fold must be a number or all: {advice}.")
        try:
            json.dumps(content["overrides"])
        except (TypeError, ValueError, RecursionError):
            raise InputError(f"{source}: origin.overrides must hold plain values: {advice}.") from None
        if not all(isinstance(line, str) for line in content["history"]):
            raise InputError(f"{source}: origin.history must be a list of texts: {advice}.")
        for case, names in content["not_annotated"].items():
            if not (isinstance(names, list) and all(map(is_plain_name, (case, *names)))):
                raise InputError(f"{source}: origin.not_annotated must list classes by case id: {advice}.")
        lists = {key: tuple(content[key]) for key in (*CASE_LISTS, "history")}
        return cls(**content | lists)

    def joined(self, other: Origin | None) -> Origin:
        """With the labels that weights or predictions of another origin bring; None where that is unknown."""
        if other is None:
            return replace(self, complete=False)
        learned = tuple(sorted({*self.learned, *other.learned}))
        return replace(self, learned=learned, complete=self.complete and other.complete)

    def after(self, before: Origin | None, event: str = "") -> Origin:
        """Of a training that goes on with weights of another origin, with an entry in its history."""
        history = (*(before.history if before else ()), *([event] if event else []))
        return replace(self.joined(before), history=history)

    def facts(self) -> dict[str, Any]:
        """What tables and records keep: number and digest of the cases in each role, the plans, the length."""
        lists = {key: getattr(self, key) for key in ("train", "val", "hidden", "unlabeled")}
        digests = {key: hashlib.sha256(json.dumps(cases).encode()).hexdigest() for key, cases in lists.items()}
        return {key: {"cases": len(cases), "sha256": digests[key]} for key, cases in lists.items()} | {
            key: getattr(self, key) for key in ("plans_fingerprint", *NNUNET_LENGTH, *["stopped"][: bool(self.stopped)])
        }


def present_origin(
    base: Path,
    plans: dict[str, Any],
    configuration: str,
    fold: int | str,
    trainer: str,
    semi_supervised: bool,
    overrides: dict[str, Any],
    split: tuple[list[str], list[str]] | None = None,
) -> Origin:
    """What a training would be made of that began now.

    Args:
        base: the dataset's folder in `nnUNet_preprocessed`.
        plans: contents of the plans file.
        semi_supervised: whether the trainer reads unlabeled cases.
        overrides: `Settings.overrides`.
        split: training and validation cases, of a trainer that makes its own; those of `splits_final.json` if None, or
            what nnU-Net makes of a fold that is not there. Without that file nnU-Net writes it.

    Raises:
        InputError: folds, plans or the folder of unlabeled cases are not in order.
    """
    base, fold = Path(base), "all" if fold == "all" else int(fold)
    lists = _lists_of_fold(base, fold)
    hidden, unlabeled = lists.get("unlabeled", []), []
    if split is None:
        split = (lists["train"], lists["val"]) if lists else _nnunets_split(base, plans, configuration, fold)
    train, val = split
    not_annotated = {case: sorted(names) for case, names in of_preprocessed(base).items() if case in train}
    if semi_supervised:
        from nnunet_ssl.data.loader import unlabeled_files

        unlabeled, hidden = unlabeled_files(base, PlansManager(plans), configuration, fold, not_annotated)
    length = {key: overrides.get(key, NNUNET_LENGTH[key]) for key in NNUNET_LENGTH}
    return Origin(
        version=nnunet_ssl.__version__,
        trainer=trainer,
        dataset=base.name,
        configuration=configuration,
        plans=plans["plans_name"],
        fold=fold,
        train=_ids(train),
        val=_ids(val),
        hidden=_ids(hidden),
        unlabeled=_ids(unlabeled),
        learned=_ids(train),
        plans_fingerprint=training_fingerprint(plans, configuration, base),
        overrides=dict(overrides),
        not_annotated=not_annotated,
        **length,
    )


def training_fingerprint(plans: dict[str, Any], configuration: str, base: Path) -> str:
    """sha256 of what of the plans decides a configuration's training, network and patch included, as hexadecimal
    digits.

    Names are left out, so a copy of the plans has the same one. `base` is for messages.
    """
    settings = with_inherited(plans, configuration, Path(base) / f"{plans['plans_name']}.json")
    decisive = {key: value for key, value in settings.items() if key not in NAMES_IN_CONFIGURATION}
    content = {"configuration": decisive} | {key: plans.get(key) for key in OF_PLANS}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_origin(fold_folder: Path) -> Origin | None:
    """The origin of what lies in a fold's folder; None if it is unknown, as of stock trainers and older versions.

    Raises:
        InputError: the file is damaged.
    """
    file = Path(fold_folder) / ORIGIN_FILE
    if not file.is_file():
        return None
    return Origin.from_dict(read_json(file, f"remove {fold_folder} and train again"), file)


def leaked(before: Origin, now: Origin) -> list[str]:
    """The cases whose label was learned and that a fold now has without a label, or validates on, sorted.

    A case that the fold both trains and validates on, as all of fold "all", is none.
    """
    without = {*now.hidden, *now.unlabeled, *now.val} - {*now.train}
    return sorted(without.intersection(before.learned))


def differences(before: Origin, now: Origin) -> list[str]:
    """What is not the same, in short phrases; nothing if the one training would be the other."""
    return [*data_differences(before, now), *setting_differences(before, now)]


def data_differences(before: Origin, now: Origin) -> list[str]:
    """Of `differences` those of names, plans and cases."""
    found = [
        f"{key} {getattr(before, key)} then, {getattr(now, key)} now"
        for key in NAMES
        if getattr(before, key) != getattr(now, key)
    ]
    if before.plans_fingerprint != now.plans_fingerprint:
        found.append("other plans")
    found += fold_differences(before, now)
    for first, second, change in ((now, before, "new"), (before, now, "gone")):
        if changed := sorted({*first.unlabeled} - {*second.unlabeled}):
            verb = "case is" if len(changed) == 1 else "cases are"
            found.append(f"{len(changed)} unlabeled {verb} {change} ({listed(changed, separator=', ')})")
    for case in sorted({*before.train} & {*now.train}):
        then, today = (listed(origin.not_annotated.get(case, ["nothing"])) for origin in (before, now))
        if then != today:
            found.append(f"not annotated in {case}: {then} then, {today} now")
    return found


def fold_differences(before: Origin, now: Origin) -> list[str]:
    """Of `differences` those of the labeled folder's cases."""
    found, told = [], set()
    for key, role in NEW.items():
        if new := sorted({*getattr(now, key)} - {*getattr(before, key)}):
            found.append(f"{_cases(new)} now {role} ({listed(new, separator=', ')})")
            told.update(new)
    for key, role in NEW.items():
        if lost := sorted({*getattr(before, key)} - {*getattr(now, key)} - told):
            found.append(f"{_cases(lost)} no longer {role} ({listed(lost, separator=', ')})")
    return found


def setting_differences(before: Origin, now: Origin) -> list[str]:
    """Of `differences` those of length and overrides."""
    found = []
    for key, unit in (("num_epochs", "epochs"), ("num_iterations_per_epoch", "steps per epoch")):
        then, today = getattr(before, key), getattr(now, key)
        if then != today:
            found.append(f"{then} {unit} then, {today} now")
    for key in sorted((before.overrides.keys() | now.overrides.keys()) - NNUNET_LENGTH.keys()):
        if before.overrides.get(key) != now.overrides.get(key):
            then, today = (str(origin.overrides.get(key, "not set")) for origin in (before, now))
            found.append(f"{key} {then[:60]} then, {today[:60]} now")
    return found


def in_words(origin: Origin) -> str:
    """`nnUNetTrainerBCP, fold 0, 1000 epochs; learned 2 labels (a, b); 6 hidden, 40 unlabeled, 2 validation cases`."""
    more = "" if origin.complete else " and what weights of unknown data had"
    stopped = f", {origin.stopped}" if origin.stopped else ""
    return (
        f"{origin.trainer}, fold {origin.fold}, {origin.num_epochs} epochs{stopped}; "
        f"learned {len(origin.learned)} labels ({listed(list(origin.learned), separator=', ')}){more}; "
        f"{len(origin.hidden)} hidden, {len(origin.unlabeled)} unlabeled, {len(origin.val)} validation cases"
    )


def _cases(cases: list[str]) -> str:
    return f"{len(cases)} {'case is' if len(cases) == 1 else 'cases are'}"


def _ids(cases: Any) -> tuple[str, ...]:
    return tuple(sorted(map(str, cases)))


def _lists_of_fold(base: Path, fold: int | str) -> dict[str, list[str]]:
    """The fold's lists in `splits_final.json`; empty if it has none there."""
    file = base / SPLITS_FILE
    if fold == "all" or not file.is_file():
        return {}
    splits = read_splits(file)
    return splits[fold] if fold < len(splits) else {}


def _nnunets_split(base: Path, plans: dict[str, Any], configuration: str, fold: int | str) -> tuple[list, list]:
    """The split of a fold that `splits_final.json` lacks, as nnU-Net's trainer makes it."""
    from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    settings = with_inherited(plans, configuration, base / f"{plans['plans_name']}.json")
    folder = str(base / settings["data_identifier"])
    trainer = SimpleNamespace(
        fold=fold,
        preprocessed_dataset_folder=folder,
        preprocessed_dataset_folder_base=str(base),
        dataset_class=infer_dataset_class(folder),
        folder_with_segs_from_previous_stage=None,
        print_to_log_file=lambda *args: None,
    )
    return nnUNetTrainer.do_split(trainer)
