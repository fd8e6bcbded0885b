"""Dense labels for cases annotated in two orthogonal slices, made beside the preprocessed cases.

Planes are found and labels carried in the scan as it is stored: there a plane is one voxel thick and exact. On the
training grid it may be blurred or fall between two slices; a dense volume survives nnU-Net's resampling of labels.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets
from tqdm import tqdm

from nnunet_ssl.data.plans import read_plans, require_configurations
from nnunet_ssl.data.propagated import FORMAT, META, propagated_folder, read_meta
from nnunet_ssl.data.raw import listed, preprocessed_folder, raw_folder, read_dataset_json
from nnunet_ssl.data.reading import read_file
from nnunet_ssl.data.unlabeled import plans_fingerprint
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import writing
from nnunet_ssl.locks import locked
from nnunet_ssl.pools import Pool
from nnunet_ssl.preparation.preprocessing import read_checked
from nnunet_ssl.preparation.propagation_picture import picture
from nnunet_ssl.preparation.registration import carry

Plane = tuple[int, int]  # axis, index


def propagate_dataset(
    dataset_id: int,
    configuration: str = "3d_fullres",
    plans_name: str = "nnUNetPlans",
    processes: int = 4,
    overwrite: bool = False,
) -> None:
    """Carries the two annotated slices of each labeled case through its scan, in both directions.

    Finished cases whose files and plans have not changed are kept, unless `overwrite`.

    Raises:
        InputError: the configuration is 2D, the data set has no ignore label, no case has two orthogonal slices, or is
            preprocessed; or at the end, with every bad case, after all good ones were done.
    """
    base, raw = preprocessed_folder(dataset_id), raw_folder(dataset_id)
    plans = read_plans(base, plans_name, dataset_id)
    require_configurations([configuration], plans.available_configurations, base / f"{plans_name}.json")
    if len(plans.get_configuration(configuration).patch_size) == 2:
        raise InputError(f"{configuration} is 2D: no patch of it shows two orthogonal slices. Name a 3D configuration.")
    dataset_json = read_dataset_json(raw / "dataset.json")
    labels = plans.get_label_manager(dataset_json)
    if labels.ignore_label is None:
        raise InputError(
            f"{raw / 'dataset.json'} has no ignore label: nothing is annotated in slices. Give the voxels beside them "
            'one more label, called "ignore".'
        )
    channels = labels.foreground_regions if labels.has_regions else labels.foreground_labels
    channels = [[int(label) for label in np.atleast_1d(channel)] for channel in channels]
    labeled = base / plans.get_configuration(configuration).data_identifier
    cases = get_filenames_of_train_images_and_targets(str(raw), dataset_json)
    folder = propagated_folder(labeled)
    with locked(folder):
        folder.mkdir(parents=True, exist_ok=True)
        marks = {case: _mark(files, plans, configuration, channels) for case, files in cases.items()}
        done = {case for case, mark in marks.items() if not overwrite and _is_done(folder / f"{case}.b2nd", mark)}
        todo = sorted(set(cases) - done)
        print(f"{configuration}: {len(cases)} labeled cases, {len(done)} already propagated, {len(todo)} to look at.")
        work = {
            case: (case, cases[case], marks[case], labeled, plans, configuration, labels.ignore_label) for case in todo
        }
        results = _run_parallel(work, processes)
    problems = [str(result) for _, result in sorted(results.items()) if isinstance(result, InputError)]
    others = [f"{case} ({result})" for case, result in sorted(results.items()) if isinstance(result, str)]
    if others:
        print(
            f"{len(others)} case(s) not annotated in exactly two orthogonal slices are not propagated; all other "
            f"methods train on them through the ignore label: {listed(others)}"
        )
    if problems:
        made = len(cases) - len(problems) - len(others)
        raise InputError(
            f"{len(problems)} case(s) annotated in two slices could not be propagated, {made} could:\n  "
            + listed(problems, 10, "\n  ")
        )
    if len(others) == len(cases):
        raise InputError(f"No case of {raw / 'labelsTr'} is annotated in exactly two orthogonal slices.")
    print(f"Done: {folder}; look at the pictures there.")


def find_planes(annotated: np.ndarray) -> list[Plane] | str:
    """The two planes, or what is annotated instead, in words.

    Args:
        annotated: voxels that have a label, bool (*spatial).
    """
    if annotated.all():
        return "all of it"
    axes = range(annotated.ndim)
    full = [annotated.all(tuple(other for other in axes if other != axis)) for axis in axes]
    planes = [(axis, int(index)) for axis in axes for index in np.flatnonzero(full[axis])]
    rest = annotated.copy()
    for axis, index in planes:
        rest[(slice(None),) * axis + (index,)] = False
    if not planes:
        return "no slice in full" if rest.any() else "nothing"
    if rest.any():
        return f"{len(planes)} slice(s) and {int(rest.sum())} voxels beside"
    if len(planes) != 2:
        return f"{len(planes)} slice(s)"
    return planes if planes[0][0] != planes[1][0] else "2 parallel slices"


def place_on_grid(index: int, crop: tuple[int, int], size: int) -> int:
    """Where a slice of the scan lies on the training grid.

    Args:
        index: of the slice, along an axis of the scan.
        crop: nnU-Net's first slice, and the one behind its last.
        size: slices on the training grid.

    Raises:
        InputError: it lies outside of what nnU-Net keeps.
    """
    first, end = crop
    if not first <= index < end:
        raise InputError("an annotated slice is empty in the image, and nnU-Net crops it away; annotate another")
    place = (index - first + 0.5) * size / (end - first) - 0.5
    return int(np.clip(np.floor(place + 0.5), 0, size - 1))


def _run_parallel(work: dict[str, tuple], processes: int) -> dict[str, str | InputError | None]:
    if not work:
        return {}
    with Pool(min(processes, len(work))) as pool:
        return dict(tqdm(pool.run(_propagate_case, work.items()), total=len(work), desc="Propagating"))


def _propagate_case(
    case: str, files: dict, mark: dict, labeled: Path, plans: PlansManager, configuration: str, ignore: int
) -> str | None:
    """Runs in a worker. Returns what is annotated where that is not two orthogonal slices."""
    label_file = Path(files["label"])
    where = f"case {case}, file {label_file.name}"
    labels, _ = read_file(plans.image_reader_writer_class, label_file, where, segmentation=True)
    labels = labels[0].astype(np.int16)
    found = find_planes(labels != ignore)
    file = propagated_folder(labeled) / f"{case}.b2nd"
    if isinstance(found, str):
        file.unlink(missing_ok=True)  # of labels that have changed since
        return found
    image, properties, _ = read_checked(case, [Path(channel) for channel in files["images"]], plans)
    if image.shape[1:] != labels.shape:
        raise InputError(f"{where}: its shape is {labels.shape} and that of the image {image.shape[1:]}; mend it")
    spacing = tuple(float(size) for size in properties["spacing"])
    volumes = np.stack([carry(image[0], labels.take(at, axis), axis, at, spacing) for axis, at in found])
    on_grid, planes = _on_training_grid(case, volumes, found, spacing, labeled, plans, configuration)
    picture(file.with_suffix(".png"), case, image[0], volumes, found, spacing)
    _write(file, on_grid, mark | {"planes": planes})
    return None


def _mark(files: dict, plans: PlansManager, configuration: str, channels: list[list[int]]) -> dict[str, Any]:
    """What the volumes of a case are made from."""
    stats = [(Path(file), os.stat(file)) for file in (files["label"], *files["images"]) if os.path.isfile(file)]
    return {
        "format": FORMAT,
        "plans": plans_fingerprint(plans, configuration),
        "channels": channels,
        "sources": {file.name: [stat.st_size, stat.st_mtime_ns] for file, stat in stats},
    }


def _is_done(file: Path, mark: dict[str, Any]) -> bool:
    meta = read_meta(file)
    return meta is not None and {key: value for key, value in meta.items() if key != "planes"} == mark


def _on_training_grid(
    case: str,
    volumes: np.ndarray,
    found: list[Plane],
    spacing: tuple[float, ...],
    labeled: Path,
    plans: PlansManager,
    configuration: str,
) -> tuple[np.ndarray, list[list[int]]]:
    """Both volumes and planes as nnU-Net's preprocessing makes them of a segmentation: turned, cropped, resampled."""
    try:
        preprocessed, _, _, properties = nnUNetDatasetBlosc2(str(labeled), [case]).load_case(case)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"case {case}: {labeled} lacks it ({error}); run `nnUNetv2_preprocess` for {configuration} first"
        ) from error
    order = list(plans.transpose_forward)
    turned = volumes.transpose(0, *[axis + 1 for axis in order])
    shape = preprocessed.shape[1:]
    if tuple(properties["shape_before_cropping"]) != turned.shape[1:]:
        raise InputError(
            f"case {case}: its files have changed since it was preprocessed; run `nnUNetv2_preprocess` again"
        )
    crop = [(int(low), int(high)) for low, high in properties["bbox_used_for_cropping"]]
    planes = []
    for axis, index in found:
        axis = order.index(axis)
        try:
            planes.append([axis, place_on_grid(index, crop[axis], shape[axis])])
        except InputError as error:
            raise InputError(f"case {case}: {error}") from None
    cropped = np.ascontiguousarray(turned[(slice(None), *(slice(*sides) for sides in crop))])
    old = [spacing[axis] for axis in order]
    settings = plans.get_configuration(configuration)
    new = [*old[: len(old) - len(settings.spacing)], *settings.spacing]
    return settings.resampling_fn_seg(cropped, shape, old, new).astype(np.int16), planes


def _write(file: Path, volumes: np.ndarray, meta: dict[str, Any]) -> None:
    """Aside, then renamed."""
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial.b2nd")
    partial.unlink(missing_ok=True)
    with writing(partial):
        array = blosc2.asarray(np.ascontiguousarray(volumes), urlpath=str(partial), mode="w")
        array.schunk.vlmeta[META] = meta
    os.replace(partial, file)
