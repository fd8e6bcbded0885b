"""nnU-Net's plans from the labels that one fold may see, and which hidden labels any plans have seen.

nnU-Net plans on every case of the labeled folder. Labels that a fold hides (`nnunet_ssl.data.splits`) thus shape the
foreground intensity statistics, which set the normalization of CT. Plans made here carry one more entry, which nnU-Net
passes on to results, checkpoints and exported models::

    "nnunet_ssl": {"fold": 0, "planned_on": ["case_001", ...]}
"""

import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nnunet_ssl.data.plans import check_new_name
from nnunet_ssl.data.raw import listed, preprocessed_folder, raw_folder, read_dataset_json
from nnunet_ssl.data.splits import FILE, check_fold, read_splits
from nnunet_ssl.errors import InputError, machine_fault
from nnunet_ssl.files import is_clutter, read_json, write_json
from nnunet_ssl.locks import locked
from nnunet_ssl.pools import killed

RECORD = "nnunet_ssl"
FINGERPRINT = "dataset_fingerprint.json"
ADVICE = "mend or remove it, or plan again"
EFFECT = "they shape the foreground intensity statistics, which set the normalization of CT"


def plan_fold(
    dataset_id: int,
    fold: int,
    planner: str = "ExperimentPlanner",
    plans_name: str | None = None,
    gpu_memory_target: float | None = None,
    overwrite_target_spacing: Sequence[float] | None = None,
    processes: int = 8,
) -> Path:
    """Plans on the training and validation cases of a fold, as if no other label existed; returns the plans file.

    nnU-Net's own extractor and planner run in a folder aside that names these cases only, so the dataset's fingerprint
    and other plans stay as they are. The plans name preprocessed data of their own.

    Args:
        planner: class of nnU-Net, as after its `-pl`.
        plans_name: by default the planner's with `_foldN`.
        gpu_memory_target: in GB; the planner's if None.
        overwrite_target_spacing: in mm, as nnU-Net's option of that name.
        processes: cases read at once.

    Raises:
        InputError: dataset, fold or planner is unknown, a case of the fold is missing or cannot be read, or other
            plans of this name exist or are being made.
    """
    if plans_name:
        check_new_name(plans_name)
    raw, base = raw_folder(dataset_id), preprocessed_folder(dataset_id)
    planner_class = _find_planner(planner)
    cases = _labeled_cases(raw, base / FILE, fold)
    options = {} if gpu_memory_target is None else {"gpu_memory_target_in_gb": gpu_memory_target}
    if overwrite_target_spacing is not None:
        options["overwrite_target_spacing"] = [float(size) for size in overwrite_target_spacing]
    with locked(base / (plans_name or f"{planner}_fold{fold}")):
        plans = _plan(raw, cases, fold, planner_class, plans_name, options, processes)
        file = base / f"{plans['plans_name']}.json"
        if file.exists() and read_json(file, ADVICE) != json.loads(json.dumps(plans)):
            raise InputError(f"{file} exists already with other content: choose another name with -p, or remove it.")
        write_json(plans, file)
    return file


def _plan(
    raw: Path,
    cases: dict[str, dict],
    fold: int,
    planner_class: type,
    plans_name: str | None,
    options: dict[str, Any],
    processes: int,
) -> dict[str, Any]:
    """The plans, made in a folder aside."""
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor

    with TemporaryDirectory(prefix="nnunet_ssl_plan_") as aside, _nnunet_folders(Path(aside)) as (raw_aside, _):
        content = read_dataset_json(raw / "dataset.json") | {"dataset": cases, "numTraining": len(cases)}
        write_json(content, raw_aside / raw.name / "dataset.json")
        try:
            DatasetFingerprintExtractor(raw.name, processes).run()
        except (RuntimeError, ValueError, OSError, IndexError) as error:
            if machine_fault(error):
                raise
            if "background worker" in str(error):  # nnU-Net's words for one that was killed
                raise killed(processes, "and run the same command again.") from error
            reason = str(error).strip().splitlines()[-1]
            raise InputError(f"nnU-Net cannot read the labeled cases of fold {fold} of {raw.name}: {reason}") from error
        with redirect_stdout(io.StringIO()):  # it tells of the folder aside
            made = planner_class(raw.name, **options)
            made.plans_identifier = plans_name = plans_name or f"{made.plans_identifier}_fold{fold}"
            plans = made.plan_experiment()
    for name, configuration in plans["configurations"].items():
        # some planners name the data of nnUNetPlans, whose normalization comes from other labels
        if "data_identifier" in configuration:
            configuration["data_identifier"] = f"{plans_name}_{name}"
    plans[RECORD] = {"fold": fold, "planned_on": sorted(cases)}
    return plans


def hidden_labels_seen(plans: dict[str, Any], split: dict[str, list[str]], base: str | Path) -> list[str]:
    """The cases whose label a fold hides and that these plans were made with.

    Plans without our entry are nnU-Net's, from the fingerprint in `base`, which names no case: when it has more entries
    than the fold has labels, all hidden ones count.

    Args:
        split: the fold's lists.
        base: the dataset's folder in `nnUNet_preprocessed`.

    Raises:
        InputError: the fingerprint or our entry is damaged.
    """
    hidden = set(split.get("unlabeled", []))
    if not hidden:
        return []
    if RECORD in plans:
        try:
            return sorted(hidden.intersection(plans[RECORD]["planned_on"]))
        except (KeyError, TypeError) as error:
            name = plans.get("plans_name")
            raise InputError(f'The entry "{RECORD}" of the plans {name} is damaged: make them again.') from error
    file = Path(base) / FINGERPRINT
    if not file.is_file():
        return []
    try:
        used = len(read_json(file, ADVICE)["spacings"])
    except (KeyError, TypeError) as error:
        raise InputError(f"{file} cannot be used ({error}). Run nnU-Net's planning again.") from error
    return sorted(hidden) if used > len({*split["train"], *split["val"]} - hidden) else []


def hidden_labels_of_fold(plans: dict[str, Any], fold: int | str, base: str | Path) -> list[str]:
    """Like `hidden_labels_seen`, for a fold of the dataset's `splits_final.json`; fold "all" hides none."""
    file = Path(base) / FILE
    if fold == "all" or not file.is_file():
        return []
    splits = read_splits(file)
    return hidden_labels_seen(plans, splits[int(fold)], base) if int(fold) < len(splits) else []


def hidden_labels_in_plans(base: Path, splits: list[dict[str, list[str]]]) -> dict[str, dict[int, list[str]]]:
    """For each plans file in `base` that has seen hidden labels: for each fold that hides them, these cases."""
    found = {}
    for name, plans in _all_plans(base).items():
        seen = {fold: hidden_labels_seen(plans, split, base) for fold, split in enumerate(splits)}
        if seen := {fold: cases for fold, cases in seen.items() if cases}:
            found[name] = seen
    return found


def normalization_schemes(base: Path) -> list[str]:
    """How the plans in `base`, nnU-Net's default ones before others, normalize each channel; empty if none says it."""
    plans = _all_plans(base)
    for name in sorted(plans, key=lambda name: (name != "nnUNetPlans", name)):
        for configuration in plans[name]["configurations"].values():
            schemes = configuration.get("normalization_schemes") if isinstance(configuration, dict) else None
            if isinstance(schemes, list) and all(isinstance(scheme, str) for scheme in schemes):
                return schemes
    return []


def _all_plans(base: Path) -> dict[str, dict[str, Any]]:
    """The contents of the plans files in `base` by name."""
    found = {}
    for file in sorted(base.glob("*.json")):
        if file.name in (FILE, FINGERPRINT, "dataset.json") or is_clutter(file.name):
            continue
        plans = read_json(file, ADVICE)
        if isinstance(plans, dict) and "plans_name" in plans and isinstance(plans.get("configurations"), dict):
            found[file.stem] = plans
    return found


def in_words(seen: dict[int, list[str]]) -> str:
    """`16 labels hidden by fold 0, 15 by fold 1`."""
    (first, cases), *others = seen.items()
    return ", ".join([f"{len(cases)} label(s) hidden by fold {first}", *(f"{len(c)} by fold {f}" for f, c in others)])


def _find_planner(name: str) -> type:
    import nnunetv2
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    package = "nnunetv2.experiment_planning"
    found = recursive_find_python_class(os.path.join(nnunetv2.__path__[0], "experiment_planning"), name, package)
    if found is None:
        raise InputError(f"nnU-Net has no planner {name}: check the name after -pl, such as nnUNetPlannerResEncM.")
    return found


def _labeled_cases(raw: Path, splits_file: Path, fold: int) -> dict[str, dict]:
    """Image and label files of the cases whose label the fold uses, as `dataset.json` may list them."""
    from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

    if not splits_file.is_file():
        raise InputError(f"{splits_file} does not exist: write folds with `nnunet_ssl split` first.")
    splits = read_splits(splits_file)
    if not 0 <= fold < len(splits):
        raise InputError(f"{splits_file} has folds 0 to {len(splits) - 1}: there is no fold {fold}.")
    check_fold(splits[fold], splits_file)
    files = get_filenames_of_train_images_and_targets(str(raw), read_dataset_json(raw / "dataset.json"))
    cases = {case: files.get(case) for case in sorted({*splits[fold]["train"], *splits[fold]["val"]})}
    if missing := [case for case, found in cases.items() if not found or not os.path.isfile(found["label"])]:
        raise InputError(f"{raw} lacks the image or label of {listed(missing, separator=', ')}, cases of fold {fold}.")
    return cases


@contextmanager
def _nnunet_folders(root: Path) -> Iterator[tuple[Path, Path]]:
    """Within the context nnU-Net's raw and preprocessed folders are empty ones in `root`."""
    names = ("nnUNet_raw", "nnUNet_preprocessed")
    before = {name: os.environ[name] for name in names}
    os.environ |= {name: str(root / name) for name in names}
    try:
        yield root / names[0], root / names[1]
    finally:
        os.environ |= before
