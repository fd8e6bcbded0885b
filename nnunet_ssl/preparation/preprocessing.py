"""Preprocessing of the unlabeled cases: nnU-Net's own preprocessor and writer, on the images of ``imagesUnlabeled``.

The folder that results is described in ``nnunet_ssl.data.unlabeled``.
"""

import json
import os
import pickle
import re
import shutil
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import blosc2
import numpy as np
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from tqdm import tqdm

from nnunet_ssl.data.headers import READ_ERRORS
from nnunet_ssl.data.plans import read_plans, require_configurations
from nnunet_ssl.data.raw import listed, preprocessed_folder, raw_folder, read_dataset_json
from nnunet_ssl.data.reading import read_file
from nnunet_ssl.data.space import Difference, align, grid_of, in_words, summarize, worst
from nnunet_ssl.data.splits import read_splits
from nnunet_ssl.data.unlabeled import (
    MANIFEST,
    find_unlabeled,
    load_properties,
    manifest_content,
    plans_fingerprint,
    unlabeled_folder,
)
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import write_text, writing
from nnunet_ssl.locks import locked
from nnunet_ssl.machine import processes as default_processes
from nnunet_ssl.pools import Pool

# nnU-Net's own defaults, where cores and memory allow; anything else gets 4.
PROCESSES = {"2d": 8, "3d_fullres": 4, "3d_lowres": 8}
PARTIAL = ".partial"


def preprocess_dataset(
    dataset_id: int,
    configurations: list[str] | None = None,
    plans_name: str = "nnUNetPlans",
    processes: int | None = None,
    half: bool = False,
) -> None:
    """Preprocess the images of ``<raw>/imagesUnlabeled`` as nnU-Net would, for each configuration.

    ``half`` stores float16 instead of float32; cases that are stored otherwise are made again.

    ``configurations`` defaults to those of 2d, 3d_fullres and 3d_lowres that nnU-Net has preprocessed. Finished cases
    whose image and plans have not changed are kept; cases that left the raw folder are removed.

    Raises ``InputError`` at the end, naming every bad case and file, after all good cases were done; the folder is then
    without its manifest and no training accepts it. Also raised, at once, when another process preprocesses into one of
    the folders or the machine lacks something; what was finished is kept.
    """
    base, raw = preprocessed_folder(dataset_id), raw_folder(dataset_id)
    plans_manager = read_plans(base, plans_name, dataset_id)
    names = _choose_configurations(base, plans_manager, configurations, dataset_id)
    folder = raw / "imagesUnlabeled"
    dataset_json = read_dataset_json(base / "dataset.json", f"run nnUNetv2_plan_and_preprocess -d {dataset_id}")
    cases, problems = find_unlabeled(raw, dataset_json, _num_channels(plans_manager))
    if not cases and not problems:
        splits_file = base / "splits_final.json"
        if splits_file.is_file() and any(split.get("unlabeled") for split in read_splits(splits_file)):
            print(f"No images in {folder}: the folds of {splits_file.name} bring their own. Nothing to preprocess.")
            return
        raise InputError(f"No unlabeled images: {folder} is missing or empty. Put CASE_0000... files there.")

    with ExitStack() as locks:
        for place in {unlabeled_folder(base, plans_manager.get_configuration(name)) for name in names}:
            locks.enter_context(locked(place))
        for name in names:
            arguments = (base, cases, plans_manager, name, processes, half)
            problems += _preprocess_configuration(*arguments, complete=not problems)
    problems = list(dict.fromkeys(problems))  # a bad image is met once in each configuration
    if problems:
        head = (
            f"{len(problems)} problem(s) in {folder}, all other cases are preprocessed. "
            "Mend, replace or remove these files and run the command again:"
        )
        raise InputError(head + "\n  " + listed(problems, separator="\n  "))


def read_checked(case: str, files: list[Path], plans_manager: PlansManager) -> tuple[np.ndarray, dict, Difference]:
    """Image of a case and its properties as nnU-Net's reader gives them: float32 ``(C, *spatial)``.

    The channels are read one by one, so that each fault names its file; stacked they are what the reader gives for all
    at once, on the grid of the first. The third value is how the others are stored differently. Raises ``InputError``
    for an image that cannot be read, is truncated, holds NaN or infinity, is constant, has another number of dimensions
    than the dataset, or whose channels do not stand in one space.
    """
    reader = plans_manager.image_reader_writer_class
    images, properties, grids, differences = [], [], [], []
    for file in files:
        where = f"case {case}, file {file.name}"
        image, own_properties = read_file(reader, file, where)
        _check_image(image, own_properties, where, plans_manager)
        properties.append(own_properties)
        grids.append(grid_of(image.shape[1:], own_properties))
        image, difference = align(image, grids[-1], grids[0], where, files[0].name)
        images.append(image)
        differences.append(difference)
    data = images[0] if len(images) == 1 else np.vstack(images)
    wanted = _num_channels(plans_manager)
    if len(data) != wanted:
        raise InputError(
            f"case {case}, file {files[0].name}: {len(data)} channels where the labeled cases have {wanted} "
            "(a 4D image or a color picture?); save one 3D file for each channel"
        )
    return data, properties[0], worst(differences)


def _preprocess_configuration(
    base: Path,
    cases: dict[str, list[Path]],
    plans_manager: PlansManager,
    configuration_name: str,
    processes: int | None,
    half: bool,
    complete: bool,
) -> list[str]:
    """One configuration; returns what is wrong with images. The manifest needs no fault here and ``complete``."""
    configuration = plans_manager.get_configuration(configuration_name)
    if configuration.preprocessor_class.run_case is not DefaultPreprocessor.run_case:
        raise InputError(
            f"The preprocessor {configuration.preprocessor_name} reads images in a way of its own (it overrides "
            "run_case), which is not supported: let it override run_case_npy."
        )
    folder = unlabeled_folder(base, configuration)
    partial = folder / PARTIAL
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    fingerprint = plans_fingerprint(plans_manager, configuration_name)
    common = {"fingerprint": fingerprint} | ({"half": True} if half else {})
    marks = {case: common | {"sources": _sources(files)} for case, files in cases.items()}
    done = {case for case, mark in marks.items() if _is_done(folder, case, mark)}
    todo = sorted(set(cases) - done)
    old = {file.stem for file in folder.iterdir() if file.suffix in (".b2nd", ".pkl")} - done
    print(f"{configuration_name}: {len(cases)} unlabeled cases, {len(done)} already preprocessed, {len(todo)} to do.")

    manifest, manifest_file = manifest_content(plans_manager, configuration_name, list(cases)), folder / MANIFEST
    if todo or old or not complete:
        manifest_file.unlink(missing_ok=True)  # from here until the end the folder is not whole
    for case in old:
        _remove(folder, case)
    work = {case: (case, cases[case], marks[case], folder, plans_manager, configuration_name) for case in todo}
    problems, differences = _run_parallel(work, processes or default_processes(PROCESSES.get(configuration_name, 4)))
    for line in in_words(summarize(differences), "a channel", "the first one"):
        print(line)
    shutil.rmtree(partial)
    if complete and not problems:
        write_text(manifest_file, json.dumps(manifest, indent=1))
        print(f"Done: {folder}")
    return problems


def _run_parallel(work: dict[str, tuple], processes: int) -> tuple[list[str], dict[str, Difference]]:
    """What is wrong with images, and how the channels of each case are stored differently."""
    if not work:
        return [], {}
    with Pool(min(processes, len(work))) as pool:
        results = pool.run(_preprocess_case, work.items())
        results = dict(tqdm(results, total=len(work), desc="Preprocessing unlabeled cases"))
    problems = [str(results[case]) for case in sorted(work) if isinstance(results[case], InputError)]
    return problems, {case: found for case, found in results.items() if isinstance(found, Difference)}


def _preprocess_case(
    case: str, files: list[Path], mark: dict, folder: Path, plans_manager: PlansManager, configuration_name: str
) -> Difference:
    """Runs in a worker: what ``DefaultPreprocessor.run_case_save`` does, with checks and without a segmentation.

    Returns how the case's channels are stored differently.
    """
    configuration = plans_manager.get_configuration(configuration_name)
    data, properties, difference = read_checked(case, files, plans_manager)
    preprocessor = configuration.preprocessor_class(verbose=False)
    try:
        # seg None needs no dataset.json: nnU-Net looks up labels there only when there is a segmentation.
        data, _, properties = preprocessor.run_case_npy(data, None, properties, plans_manager, configuration, {})
    except AssertionError as error:  # how nnU-Net refuses an image, with the reason
        if not str(error):
            raise
        reason = " ".join(str(error).split())
        raise InputError(f"case {case}: nnU-Net's preprocessor refuses it ({reason}); mend or remove it") from error
    data = _as_stored(data, case, mark)
    properties["nnunet_ssl"] = mark
    blocks, chunks = comp_blosc2_params(data.shape, tuple(configuration.patch_size), data.itemsize)
    # nnU-Net's writer insists on a segmentation: give it one voxel in a folder that is emptied afterwards.
    voxel = np.zeros((1, 1, 1, 1), np.int16)
    aside = folder / PARTIAL / case
    with writing(aside.with_name(f"{case}.b2nd")):
        nnUNetDatasetBlosc2.save_case(
            data, voxel, properties, str(aside),
            chunks=chunks, blocks=blocks, chunks_seg=voxel.shape, blocks_seg=voxel.shape,
        )  # fmt: skip
    os.remove(f"{aside}_seg.b2nd")
    # The properties go last: they vouch for the image.
    for ending in ("b2nd", "pkl"):
        os.replace(f"{aside}.{ending}", folder / f"{case}.{ending}")
    return difference


def _as_stored(data: np.ndarray, case: str, mark: dict) -> np.ndarray:
    """Raises ``InputError`` where float16 would make infinity of a value."""
    if not mark.get("half"):
        return data.astype(np.float32, copy=False)
    if (largest := float(np.abs(data).max())) > (limit := float(np.finfo(np.float16).max)):
        raise InputError(
            f"case {case}: grey levels reach {largest:g} after nnU-Net's normalization, more than float16 holds "
            f"({limit:g}); preprocess without --half"
        )
    return data.astype(np.float16)


def _check_image(image: np.ndarray, properties: dict, where: str, plans_manager: PlansManager) -> None:
    low, high = image.min(), image.max()
    if low == high:
        raise InputError(f"{where}: every voxel is {low:g}, the image is empty; replace or remove it")
    wanted = _is_flat(plans_manager.plans["original_median_spacing_after_transp"])
    if _is_flat(properties["spacing"]) != wanted:
        one, other = ("3D", "2D") if wanted else ("2D", "3D")
        raise InputError(f"{where}: a {one} image in a {other} dataset; remove it")


def _is_flat(spacing: Iterable[float]) -> bool:
    """Whether nnU-Net's readers made this spacing up for a 2D image: 999 pixels between "slices", whatever the axis."""
    *others, largest = sorted(spacing)
    return largest > 998 * max(others)


def _is_done(folder: Path, case: str, mark: dict) -> bool:
    """Whether a case was preprocessed from the same files with the same plans, and its image opens."""
    try:
        properties = load_properties(folder / f"{case}.pkl")
        blosc2.open(str(folder / f"{case}.b2nd"), mode="r")
    except (*READ_ERRORS, AttributeError, pickle.UnpicklingError):
        return False  # of another kind, damaged or gone: the case is made again
    return properties.get("nnunet_ssl") == mark


def _remove(folder: Path, case: str) -> None:
    for ending in ("pkl", "b2nd"):
        (folder / f"{case}.{ending}").unlink(missing_ok=True)


def _sources(files: list[Path]) -> dict[str, list[int]]:
    """Size and time of the files that a case is made from, the spacing file that a TIFF may have among them."""
    case_json = files[0].with_name(re.sub(r"_\d{4}\..*$", ".json", files[0].name))
    stats = {file.name: file.stat() for file in (*files, case_json) if file.is_file()}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}


def _num_channels(plans_manager: PlansManager) -> int:
    return len(plans_manager.foreground_intensity_properties_per_channel)


def _choose_configurations(
    base: Path, plans_manager: PlansManager, wanted: list[str] | None, dataset_id: int
) -> list[str]:
    available = plans_manager.available_configurations
    if wanted:
        require_configurations(wanted, available, base / f"{plans_manager.plans_name}.json")
        return list(dict.fromkeys(wanted))
    names = [
        name for name in PROCESSES
        if name in available and (base / plans_manager.get_configuration(name).data_identifier).is_dir()
    ]  # fmt: skip
    if not names:
        raise InputError(
            f"nnU-Net has preprocessed no configuration of {plans_manager.plans_name} in {base}. "
            f"Run: nnUNetv2_plan_and_preprocess -d {dataset_id}, or name a configuration with -c."
        )
    return names
