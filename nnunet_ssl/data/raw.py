"""Where nnU-Net keeps a dataset, and which cases a folder of raw images holds."""

import re
from pathlib import Path

import nnunetv2.paths
from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets

from nnunet_ssl.errors import InputError
from nnunet_ssl.files import check_case_ids, is_clutter, read_json, require_keys, require_new_folder
from nnunet_ssl.names import suggestion


def dataset_id(asked: str) -> int:
    """The number of a dataset that the user names as to nnU-Net: `18`, `018` or `Dataset018_Heart`.

    Raises:
        InputError: it is neither a number nor the name of a dataset that there is; gives the nearest and all.
    """
    if re.fullmatch(r"[0-9]{1,9}", asked):
        return int(asked)  # whoever looks for its folder says if there is none
    names = _dataset_names()
    if asked not in names:
        raise InputError(f"There is no dataset {asked[:60]!r}. {suggestion(asked, names)}")
    return dataset_number(asked)


def raw_folder(dataset_id: int) -> Path:
    """The folder of a dataset in ``nnUNet_raw``.

    Raises:
        InputError: the variable is unset, no dataset has this id, or two datasets share it.
    """
    root = environment_folder("nnUNet_raw")
    folder = root / _dataset_name(dataset_id)
    if not folder.is_dir():
        raise InputError(f"Dataset {dataset_id} ({folder.name}) has no raw data: {folder} does not exist.")
    return folder


def preprocessed_folder(dataset_id: int) -> Path:
    """The folder of a dataset in ``nnUNet_preprocessed``; its raw data need not be on this machine.

    Raises:
        InputError: the variable is unset, no dataset has this id, two share it, or it is not preprocessed yet.
    """
    root = environment_folder("nnUNet_preprocessed")
    folder = root / _dataset_name(dataset_id)
    if not folder.is_dir():
        raise InputError(
            f"Dataset {dataset_id} ({folder.name}) is not preprocessed: {folder} does not exist. "
            f"Run: nnUNetv2_plan_and_preprocess -d {dataset_id}"
        )
    return folder


def find_cases(folder: Path, file_ending: str, num_channels: int) -> dict[str, list[Path]]:
    """The cases of a folder of raw images, in alphabetical order, each with its channel files in order.

    Files are named as nnU-Net wants them: ``CASE_0000.nii.gz``, ``CASE_0001.nii.gz``... Passed over are clutter of the
    system, subfolders and files that are no image (a note, the ``CASE.json`` beside a TIFF, the ``.raw`` of an
    ``.mhd``).

    Raises:
        InputError: the folder does not exist, or names the files that do not fit: no channel number, a channel
            missing or beyond ``num_channels``, another file ending.
    """
    if not folder.is_dir():
        raise InputError(f"Folder {folder} does not exist.")
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file() and not is_clutter(entry.name))
    channel_file = re.compile(rf"(.+)_(\d{{4}}){re.escape(file_ending)}")
    channels: dict[str, dict[int, Path]] = {}
    faults = []
    for name in names:
        if match := channel_file.fullmatch(name):
            channels.setdefault(match[1], {})[int(match[2])] = folder / name
        elif name.endswith(file_ending):
            faults.append(f"{name} has no channel number (CASE_0000{file_ending})")
        elif (other := re.match(r".+_\d{4}(?=\.)", name)) and other[0] + file_ending not in names:
            faults.append(f"{name} does not end in {file_ending}")
    for case, files in channels.items():
        faults += [f"{case}_{i:04d}{file_ending} is missing" for i in range(num_channels) if i not in files]
        faults += [f"{files[i].name} is beyond the {num_channels} channel(s)" for i in files if i >= num_channels]
    if faults:
        raise InputError(f"Files in {folder} that do not fit: {listed(faults)}. Rename, add or remove them.")
    return {case: [files[i] for i in range(num_channels)] for case, files in sorted(channels.items())}


def read_dataset_json(file: Path, advice: str = "give an nnU-Net v2 dataset.json") -> dict:
    """A ``dataset.json``; checked are ``file_ending`` and, where they are there, ``channel_names`` and ``dataset``.

    Raises:
        InputError: the file is missing or no such JSON, the ending is none, or cases are not named as they must be.
    """
    content = read_json(file, advice)
    require_keys(content, {"file_ending": (str,)}, file, advice=advice)
    if not re.fullmatch(r"(\.\w+)+", content["file_ending"]):
        raise InputError(f"{file}: file_ending {content['file_ending'][:40]!r} is none, such as .nii.gz: {advice}.")
    if "channel_names" in content:
        require_keys(content, {"channel_names": (dict,)}, file, advice=advice)
        require_keys(content["channel_names"], dict.fromkeys(content["channel_names"], (str,)), file, "channel_names.")
    if "dataset" in content:  # nnU-Net's other way to name the labeled cases
        require_keys(content, {"dataset": (dict,)}, file, advice=advice)
        check_case_ids(content["dataset"], file)
        for case, entry in content["dataset"].items():
            require_keys(entry, {"images": (list,), "label": (str,)}, file, f"dataset.{case}.", advice)
            if not all(isinstance(image, str) for image in entry["images"]):
                raise InputError(f"{file}: the images of {case} must be a list of paths in quotes: {advice}.")
    return content


def dataset_number(name: str) -> int:
    """18 of ``Dataset018_LA``."""
    return int(name[7:10])


def environment_folder(variable: str) -> Path:
    """The folder that an nnU-Net variable (``nnUNet_raw``, ``nnUNet_preprocessed``, ``nnUNet_results``) points at.

    Raises:
        InputError: the variable is unset or empty, or points at a file.
    """
    value = getattr(nnunetv2.paths, variable).get()
    if not value:
        raise InputError(f"The environment variable {variable} is not set. Set it to nnU-Net's folder of that name.")
    require_new_folder(Path(value), variable)
    return Path(value)


def cases_with_label(folder: Path, dataset_json: dict) -> list[str]:
    """Ids of the labeled cases, sorted: those that `dataset.json` lists, else those of a folder of labels."""
    if "dataset" in dataset_json:  # nnU-Net's other way to name them
        return sorted(dataset_json["dataset"])
    ending = dataset_json["file_ending"]
    names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    return sorted(name.removesuffix(ending) for name in names if name.endswith(ending) and not is_clutter(name))


def listed(items: list[str], limit: int = 10, separator: str = "; ") -> str:
    """The first ``limit`` items joined for a message, with the number of those left off."""
    rest = len(items) - limit
    return separator.join(items[:limit]) + (f"{separator}and {rest} more" if rest > 0 else "")


def _dataset_names() -> list[str]:
    """Of all datasets in nnU-Net's three folders, as far as their variables are set."""
    roots = [getattr(nnunetv2.paths, f"nnUNet_{kind}").get() for kind in ("raw", "preprocessed", "results")]
    found = {folder.name for root in roots if root for folder in Path(root).glob("Dataset[0-9][0-9][0-9]_?*")}
    return sorted(found)


def _dataset_name(dataset_id: int) -> str:
    # Like nnU-Net: raw, preprocessed and results together must agree on one name for the id.
    names = [str(name) for name in find_candidate_datasets(dataset_id)]
    if not names:
        raise InputError(
            f"No dataset has the id {dataset_id}: no folder Dataset{dataset_id:03d}_... "
            f"in nnUNet_raw, nnUNet_preprocessed or nnUNet_results. {suggestion('', _dataset_names())}"
        )
    if len(names) > 1:
        raise InputError(f"Several datasets share the id {dataset_id}: {', '.join(names)}. Rename or move all but one.")
    return names[0]
