"""nnU-Net's plans, read as a file that may come from anyone."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_ssl.data.headers import SPACING_RANGE
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import is_plain_name, read_json, require_keys
from nnunet_ssl.names import suggestion

LARGEST_PATCH = 2**30  # voxels
LISTS = {"spacing": (list,), "patch_size": (list,), "normalization_schemes": (list,), "use_mask_for_norm": (list,)}
RESAMPLING = ("resampling_fn_data", "resampling_fn_seg", "resampling_fn_probabilities")
TEXTS = dict.fromkeys(("data_identifier", "preprocessor_name", *RESAMPLING), (str,))
ARGUMENTS = {f"{key}_kwargs": (dict,) for key in RESAMPLING}
OF_PLANS = {
    "dataset_name": (str,),
    "image_reader_writer": (str,),
    "transpose_forward": (list,),
    "transpose_backward": (list,),
    "original_median_spacing_after_transp": (list,),
    "foreground_intensity_properties_per_channel": (dict,),
}
INTENSITIES = dict.fromkeys(("mean", "std", "percentile_00_5", "percentile_99_5"), (int, float))


def check_new_name(name: str) -> None:
    """Raises InputError unless plans can be written under this name, and results of theirs."""
    if not is_plain_name(name) or name.endswith(".json") or "__" in name:
        shown = repr(name[:60])[1:-1]
        raise InputError(f"{shown} is no name for plans: no folder, no .json, no two underscores in a row.")


def read_plans_file(base: Path, name: str, dataset_id: int | None = None) -> dict[str, Any]:
    """The contents of `<base>/<name>.json`: its name and its configurations are checked, and no more.

    Raises:
        InputError: the name is none, or the file is missing or no plans of that name.
    """
    if not is_plain_name(name):
        raise InputError(f"{name[:60]!r} is no name of plans: give that of a file in {base}, without .json.")
    number = "" if dataset_id is None else f" -d {dataset_id}"
    file, advice = base / f"{name}.json", f"run nnUNetv2_plan_and_preprocess{number}, or name other plans with -p"
    plans = read_json(file, advice)
    require_keys(plans, {"plans_name": (str,), "configurations": (dict,)}, file, advice=advice)
    if plans["plans_name"] != name:  # nnU-Net names its results after this one
        raise InputError(f"{file} calls itself {plans['plans_name'][:60]}: set its plans_name to {name}.")
    configurations = plans["configurations"]
    require_keys(configurations, dict.fromkeys(configurations, (dict,)), file, "configurations.", advice)
    return plans


def read_plans(base: Path, name: str, dataset_id: int | None = None) -> PlansManager:
    """Plans with all that decides the voxels of a preprocessed image checked, in each configuration.

    Raises:
        InputError: as above, or a key is missing, of another type, out of its range, or names what nnU-Net lacks.
    """
    plans = read_plans_file(base, name, dataset_id)
    file = base / f"{name}.json"
    require_keys(plans, OF_PLANS, file)
    for key in ("transpose_forward", "transpose_backward"):
        if plans[key] not in ([0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]):
            raise InputError(f"{file}: {key} must be an order of the axes 0, 1 and 2: mend it.")
    if not _are_numbers(plans["original_median_spacing_after_transp"], *SPACING_RANGE, (3,)):
        raise InputError(f"{file}: original_median_spacing_after_transp must be three sizes in mm: mend it.")
    for channel, values in plans["foreground_intensity_properties_per_channel"].items():
        where = f"foreground_intensity_properties_per_channel.{channel}."
        require_keys(values, INTENSITIES, file, where)
        if not all(math.isfinite(values[key]) for key in INTENSITIES):
            raise InputError(f"{file}: {where}: not all are finite numbers: mend it.")
    manager = PlansManager(plans)
    for configuration in plans["configurations"]:
        _check_configuration(manager, configuration, file)
    _require_known(file, "image_reader_writer", lambda: manager.image_reader_writer_class)
    _require_known(file, "label_manager", lambda: manager.label_manager_class)
    return manager


def read_plans_for_networks(base: Path, name: str) -> PlansManager:
    """Plans with what decides the sizes of a network checked, the old network's own arguments apart.

    Raises:
        InputError: as `read_plans_file`, or inheritance or patch of a configuration are not in order.
    """
    plans = read_plans_file(base, name)
    file = base / f"{name}.json"
    manager = PlansManager(plans)
    for configuration in plans["configurations"]:
        settings = with_inherited(plans, configuration, file)
        needed = {"patch_size": (list,), "architecture": (dict,)}
        require_keys(settings, needed, file, f"configurations.{configuration}.")
        _check_patch(settings["patch_size"], configuration, file)
        _check_folder(settings.get("data_identifier", plans["plans_name"]), configuration, file)
    _require_known(file, "label_manager", lambda: manager.label_manager_class)
    return manager


def require_configurations(wanted: Iterable[str], available: Iterable[str], file: Path) -> None:
    """Raises InputError where the plans of a file lack a configuration; gives the nearest and all."""
    for name in wanted:
        if name not in available:
            raise InputError(f"{file} has no configuration {name[:60]}. {suggestion(name, available)}")


def with_inherited(plans: dict[str, Any], name: str, file: Path) -> dict[str, Any]:
    """A configuration of plans with what it inherits; `file` is for the message.

    Raises:
        InputError: it inherits from itself or from one that there is not.
    """
    configurations, names = plans["configurations"], [name]
    while (parent := configurations[names[-1]].get("inherits_from")) is not None:
        if not isinstance(parent, str) or parent in names or parent not in configurations:
            raise InputError(f"{file}: configurations.{name}.inherits_from leads to itself or to nothing: mend it.")
        names.append(parent)
    settings = {}
    for parent in reversed(names):
        settings |= configurations[parent]
    return settings


def _check_patch(patch: list, name: str, file: Path) -> None:
    whole = all(isinstance(size, int) for size in patch)
    if not (whole and _are_numbers(patch, 1, LARGEST_PATCH, (2, 3)) and math.prod(patch) <= LARGEST_PATCH):
        raise InputError(f"{file}: configurations.{name}.patch_size must be two or three numbers of voxels: mend it.")


def _check_folder(data_identifier: Any, name: str, file: Path) -> None:
    if not is_plain_name(data_identifier):
        raise InputError(f"{file}: configurations.{name}.data_identifier must be the name of one folder: mend it.")


def _check_configuration(manager: PlansManager, name: str, file: Path) -> None:
    where = f"configurations.{name}."
    settings = with_inherited(manager.plans, name, file)
    require_keys(settings, LISTS | TEXTS | ARGUMENTS, file, where)
    _check_folder(settings["data_identifier"], name, file)
    if not _are_numbers(settings["spacing"], *SPACING_RANGE, (2, 3)):
        raise InputError(f"{file}: {where}spacing must be two or three sizes in mm: mend it.")
    _check_patch(settings["patch_size"], name, file)
    channels = len(manager.plans["foreground_intensity_properties_per_channel"])
    for key, kind in (("normalization_schemes", str), ("use_mask_for_norm", bool)):
        if len(settings[key]) != channels or not all(isinstance(value, kind) for value in settings[key]):
            raise InputError(f"{file}: {where}{key} must hold one {kind.__name__} for each channel: mend it.")
    configuration = ConfigurationManager(settings | {"architecture": settings.get("architecture", {})})
    _require_known(file, f"{where}preprocessor_name", lambda: configuration.preprocessor_class)
    for key in RESAMPLING:
        _require_known(file, f"{where}{key}", lambda key=key: getattr(configuration, key))
    for scheme in settings["normalization_schemes"]:
        _require_known(file, f"{where}normalization_schemes", lambda scheme=scheme: _normalization(scheme))


def _are_numbers(values: list, low: float, high: float, lengths: tuple[int, ...]) -> bool:
    return len(values) in lengths and all(
        isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high for value in values
    )


def _normalization(name: str) -> type | None:
    import nnunetv2
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    folder = Path(nnunetv2.__path__[0]) / "preprocessing" / "normalization"
    return recursive_find_python_class(str(folder), name, "nnunetv2.preprocessing.normalization")


def _require_known(file: Path, key: str, find) -> None:
    try:
        found = find()
    except (RuntimeError, TypeError):  # nnU-Net's lookups; a resampling function that does not take its arguments
        found = None
    if found is None:
        raise InputError(f"{file}: {key} names what nnU-Net does not have: mend it.")
