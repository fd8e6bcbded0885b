"""The unlabeled cases of a dataset: which ones the raw folder holds, and the preprocessed folder that training reads.

The preprocessed folder is a sibling of nnU-Net's own folder, so that nothing of nnU-Net ever meets an unlabeled case::

    nnUNetPlans_3d_fullres_unlabeled/
        CASE.b2nd          image (C, *spatial), float32, exactly as nnU-Net stores a labeled one; no segmentation;
                           float16 with `nnunet_ssl preprocess --half`, which all readers give as float32
        CASE.pkl           nnU-Net's properties and the entry "nnunet_ssl": {"fingerprint", "sources"}, "half" if so
        unlabeled.json     the manifest, written last: without it the preprocessing has not finished
"""

import hashlib
import json
import os
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_ssl.data.raw import dataset_number, listed
from nnunet_ssl.data.strays import channel_file, list_images
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import is_clutter, is_plain_name, read_json

if TYPE_CHECKING:
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

MANIFEST = "unlabeled.json"
FORMAT = 1
NUMPY_NUMBERS = {
    ("numpy", "dtype"), ("numpy", "ndarray"), ("numpy.core.multiarray", "scalar"),
    ("numpy.core.multiarray", "_reconstruct"), ("numpy.core.numeric", "_frombuffer"),
}  # fmt: skip


def unlabeled_folder(preprocessed_dataset_folder: str | Path, configuration_manager: "ConfigurationManager") -> Path:
    """``<nnUNet_preprocessed>/<dataset>/<data_identifier>_unlabeled``."""
    return Path(preprocessed_dataset_folder) / f"{configuration_manager.data_identifier}_unlabeled"


def plans_fingerprint(plans_manager: "PlansManager", configuration_name: str) -> str:
    """sha256 of exactly what decides the voxels of a preprocessed image, as hexadecimal digits.

    Patch size, batch size and network are left out on purpose: changing them asks for no new preprocessing. The
    configuration's name is left out too, since ``3d_cascade_fullres`` reads the images of ``3d_fullres``.
    """
    configuration = plans_manager.get_configuration(configuration_name).configuration
    decisive = {
        "reader": plans_manager.plans["image_reader_writer"],
        "transpose_forward": plans_manager.transpose_forward,
        "foreground_intensities": plans_manager.foreground_intensity_properties_per_channel,
    }
    keys = ("preprocessor_name", "spacing", "normalization_schemes", "use_mask_for_norm")
    for key in (*keys, "resampling_fn_data", "resampling_fn_data_kwargs"):
        decisive[key] = configuration[key]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def manifest_content(plans_manager: "PlansManager", configuration_name: str, cases: list[str]) -> dict:
    """What ``unlabeled.json`` holds when all of ``cases`` are preprocessed with these plans."""
    return {
        "format": FORMAT,
        "fingerprint": plans_fingerprint(plans_manager, configuration_name),
        "configuration": configuration_name,
        "plans": plans_manager.plans_name,
        "cases": sorted(cases),
    }


def read_cases(
    folder: str | Path, plans_manager: "PlansManager", configuration_name: str, dataset_id: int | str
) -> list[str]:
    """The ids of the preprocessed unlabeled cases, sorted: one listing and one small JSON file, no image is opened.

    ``dataset_id`` (``18`` or ``"Dataset018_LA"``) only serves the messages.

    Raises ``InputError`` when the folder or its manifest is missing, was made with other plans, is empty, or lacks the
    image of a case that the manifest names.
    """
    folder = Path(folder)
    is_name = isinstance(dataset_id, str) and dataset_id.startswith("Dataset")
    number = dataset_number(dataset_id) if is_name else dataset_id
    command = f"`nnunet_ssl preprocess -d {number} -c {configuration_name} -p {plans_manager.plans_name}`"
    if not folder.is_dir():
        raise InputError(
            f"No preprocessed unlabeled cases: {folder} does not exist. Put the unlabeled images in "
            f"{plans_manager.dataset_name}/imagesUnlabeled in nnUNet_raw and run {command}."
        )
    files = set(os.listdir(folder))
    if MANIFEST not in files:
        raise InputError(f"The preprocessing of {folder} has not finished (no {MANIFEST}): run {command} again.")
    manifest = _read_manifest(folder / MANIFEST, command)
    if manifest["fingerprint"] != plans_fingerprint(plans_manager, configuration_name):
        raise InputError(
            f"{folder} was preprocessed with other plans than {plans_manager.plans_name} as it is now "
            f"(other spacing, normalization or resampling): run {command} again."
        )
    if not manifest["cases"]:
        raise InputError(
            f"{folder / MANIFEST} lists no case. Put the unlabeled images in "
            f"{plans_manager.dataset_name}/imagesUnlabeled in nnUNet_raw and run {command}."
        )
    missing = [case for case in manifest["cases"] if f"{case}.b2nd" not in files or f"{case}.pkl" not in files]
    if missing:
        some = ", ".join(f"{case}.b2nd" for case in missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise InputError(f"{len(missing)} case(s) of {folder} are gone or incomplete ({some}): run {command} again.")
    return sorted(manifest["cases"])


class PlainUnpickler(pickle.Unpickler):
    """Reads what nnU-Net's properties are made of, containers and numbers, and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module.replace("numpy._core", "numpy.core"), name) not in NUMPY_NUMBERS:
            raise pickle.UnpicklingError(f"{module}.{name} is no number")
        return super().find_class(module, name)


def load_properties(file: Path) -> dict[str, Any]:
    """What ``CASE.pkl`` holds, read as data.

    Raises what ``pickle`` does on a file that is damaged, or holds more than data.
    """
    with open(file, "rb") as stream:
        return PlainUnpickler(stream).load()


def find_unlabeled(raw: Path, dataset_json: dict, num_channels: int) -> tuple[dict[str, list[Path]], list[str]]:
    """The unlabeled cases of a raw dataset, each with its channel files, and what is wrong with the other files.

    Unlike ``nnunet_ssl.data.raw.find_cases`` it does not stop at a bad name, so that all faults are reported at once.
    """
    ending = dataset_json["file_ending"]
    labeled, test = _ids(raw / "imagesTr", ending), _ids(raw / "imagesTs", ending)
    if "dataset" in dataset_json:  # nnU-Net's other way to name the labeled cases
        labeled = {case: len(entry["images"]) for case, entry in dataset_json["dataset"].items()}
    # An RGB picture is one file of three channels: the labeled cases tell how many files make a case.
    num_files = next(iter(labeled.values()), num_channels)

    found, strays = list_images(raw / "imagesUnlabeled", ending)
    problems = [str(stray) for stray in strays]
    cases = {}
    for case, files in found.items():
        wanted = [f"{case}_{i:04d}{ending}" for i in range(num_files)]
        present = [file.name for file in files.values()]
        missing, extra = [n for n in wanted if n not in present], [n for n in present if n not in wanted]
        if missing or extra:
            both = ((missing, "missing"), (extra, "too many"))
            what = [f"{listed(files, separator=', ')} {verb}" for files, verb in both if files]
            problems.append(f"case {case}: the labeled cases have {num_files} channel file(s); {'; '.join(what)}")
        elif case in labeled:
            problems.append(f"case {case} ({wanted[0]}): also a labeled case in imagesTr; remove one of them")
        elif case in test:
            problems.append(f"case {case} ({wanted[0]}): also a test case in imagesTs; remove it from imagesUnlabeled")
        elif broken := [file.name for file in files.values() if not file.is_file()]:
            problems.append(f"case {case}: {listed(broken, separator=', ')} is no file (a broken link?)")
        else:
            cases[case] = [files[i] for i in range(num_files)]
    return cases, problems


def _read_manifest(file: Path, command: str) -> dict:
    manifest = read_json(file, f"delete it and run {command} again")
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise InputError(f"{file} has a format that this version does not know: delete it and run {command} again.")
    cases = manifest.get("cases")
    well_formed = isinstance(cases, list) and all(map(is_plain_name, cases)) and len(set(cases)) == len(cases)
    if not well_formed or not isinstance(manifest.get("fingerprint"), str):
        raise InputError(f"{file} is damaged: delete it and run {command} again.")
    return manifest


def _ids(folder: Path, ending: str) -> dict[str, int]:
    """Case ids of a folder of raw images, each with its number of files; nothing if there is no such folder."""
    count: dict[str, int] = {}
    for name in sorted(os.listdir(folder)) if folder.is_dir() else ():
        if not is_clutter(name) and (match := channel_file(name, ending)):
            count[match[1]] = count.get(match[1], 0) + 1
    return count
