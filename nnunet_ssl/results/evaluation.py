"""Dice, Jaccard, HD95 and ASD of a folder of predictions, per case and class.

Definitions, for one class of one case (a region's mask is the union of its labels; voxels that the reference marks
with the ignore label are taken out of both masks):

- Dice ``2 |R & P| / (|R| + |P|)`` and Jaccard ``|R & P| / |R | P|``, in 0..1.
- The surface of a mask: its voxels with a face neighbor outside the mask; beyond the image is outside.
- HD95: the distances from every surface voxel of the prediction to the nearest surface voxel of the reference, and the
  other way round, pooled into one set; its 95th percentile (``medpy.metric.hd95``).
- ASD: the mean distance from the prediction's surface voxels to the reference's surface, in this direction only
  (``medpy.metric.asd``, as in the tables of the field).
- Distances are between voxel centers, in mm with the file's spacing and in voxels with spacing 1. A format without
  geometry (PNG, BMP, ...) has spacing 1, so both are equal. A 2D image is measured in its plane.
- A prediction is measured on its reference's voxels: one stored with other axes is turned, one that stands elsewhere is
  refused (``nnunet_ssl.data.space``).

A class absent from a case's reference has no values for that case (null) and is listed in ``absent``, or in
``not_annotated`` where ``dataset.json`` says that it was not annotated there. Of the absent ones, those that the
prediction has all the same are listed in ``spurious``. A class in the reference that the prediction lacks altogether
has Dice and Jaccard 0 and no distances (null), and is counted in ``missed``: a mean distance is over the cases that
have one, so read it beside that count.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from tqdm import tqdm

from nnunet_ssl.data.not_annotated import read_not_annotated
from nnunet_ssl.data.raw import listed, read_dataset_json
from nnunet_ssl.data.reading import read_file, reader_of
from nnunet_ssl.data.space import Difference, VoxelGrid, align, grid_of, summarize
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import is_clutter, require_keys
from nnunet_ssl.pools import Pool

METRICS = ("dice", "jaccard", "hd95_mm", "asd_mm", "hd95_voxel", "asd_voxel")

Values = dict[str, float | None]


def evaluate_folders(
    reference: Path,
    prediction: Path,
    dataset_json: Path | None = None,
    processes: int = 1,
    progress: str | None = "evaluating",
) -> dict:
    """Compares every segmentation of ``reference`` with the file of the same name in ``prediction``.

    Returns what ``metrics.json`` holds but for ``seen`` (``results/seen.py``): ``metrics[m]`` for each m of ``METRICS``
    with ``per_case`` (case id -> class -> value or None), ``per_class`` (mean over the cases that have a value) and
    ``mean`` (mean over ``per_class``, that is nnU-Net's foreground mean); ``absent`` (class -> ids of the cases whose
    reference lacks it), ``not_annotated`` (the same where ``dataset.json`` says why), ``spurious`` (those of ``absent``
    whose prediction has it), ``missed`` (class -> number of cases whose prediction lacks it), ``space`` (cases whose
    prediction has other axes or another header than its reference, see ``space.summarize``), and the two folders. Files
    in ``prediction`` without a reference are not looked at.

    ``dataset_json`` names the classes; by default the one in ``prediction``, else the one beside ``reference``.
    ``progress`` is what the progress bar says; None for no bar.

    Raises InputError, with every fault in one message, for a missing prediction, a file that cannot be read or holds
    several volumes, a prediction that does not stand in its reference's space, and a voxel value that ``dataset.json``
    does not declare.
    """
    reference, prediction = Path(reference), Path(prediction)
    for folder in (reference, prediction):
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder.")
    dataset_json = Path(dataset_json) if dataset_json is not None else find_dataset_json(reference, prediction)
    dataset = read_dataset_json(dataset_json)
    classes, ignore = read_labels(dataset, dataset_json)
    declared = read_not_annotated(dataset, dataset_json)
    ending = dataset["file_ending"]
    files = segmentations(reference, ending)
    faults = [f"{f.name}: not in {prediction}" for f in files if not (prediction / f.name).is_file()]
    # With a file missing no table can come out, so the rest is only checked, to report all faults at once.
    measure = not faults
    reader = reader_of(dataset, files)
    jobs = {
        f.name.removesuffix(ending): (reader, f, prediction / f.name, classes, ignore, measure)
        for f in files
        if (prediction / f.name).is_file()
    }
    results, faulty = of_cases(_evaluate_case, jobs, processes, progress)
    if faults := faults + faulty:
        raise InputError("These cases cannot be evaluated:\n  " + listed(sorted(faults), separator="\n  "))
    per_case = {case: values for case, (values, _, _) in results.items()}
    differences = {case: difference for case, (_, difference, _) in results.items()}
    predicted = {case: classes for case, (_, _, classes) in results.items()}
    return {
        "reference": str(reference),
        "prediction": str(prediction),
        "metrics": {metric: _summarize(per_case, list(classes), metric) for metric in METRICS},
        **(without := _without_reference(per_case, classes, declared)),
        "spurious": {c: [case for case in cases if c in predicted[case]] for c, cases in without["absent"].items()},
        "missed": {
            c: sum(v[c]["dice"] is not None and v[c]["hd95_mm"] is None for v in per_case.values()) for c in classes
        },
        "space": summarize(differences),
    }


def of_cases(
    work: Callable[..., Any], jobs: Mapping[str, tuple], processes: int, progress: str | None
) -> tuple[dict[str, Any], list[str]]:
    """What ``work`` makes of each case, in their order, and the faults of the cases that have one.

    ``jobs`` has its arguments by case; ``progress`` is what the progress bar says, None for no bar.
    """
    found, faults = {}, []
    one_thread = partial(sitk.ProcessObject.SetGlobalDefaultNumberOfThreads, 1)
    processes = min(processes, len(jobs))  # each takes seconds to begin
    with Pool(0 if processes <= 1 else processes, "and run the same command again.", one_thread) as pool:
        results = pool.run(work, jobs.items())
        hidden = True if progress is None else None  # None: without a terminal
        for case, result in tqdm(results, total=len(jobs), desc=progress, unit="case", disable=hidden):
            if isinstance(result, InputError):
                faults.append(str(result))
            else:
                found[case] = result
    return {case: found[case] for case in jobs if case in found}, faults


def measure_masks(reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...]) -> Values:
    """The six values of two boolean masks of one shape ``(*spatial)``, 2D or 3D, with ``spacing`` in mm per axis.

    All None if the reference is empty; Dice and Jaccard 0 and distances None if only the prediction is.
    """
    size_reference, size_prediction = int(reference.sum()), int(prediction.sum())
    if size_reference == 0:
        return dict.fromkeys(METRICS)
    if size_prediction == 0:
        return dict.fromkeys(METRICS) | {"dice": 0.0, "jaccard": 0.0}
    overlap = int((reference & prediction).sum())
    values: Values = {
        "dice": 2 * overlap / (size_reference + size_prediction),
        "jaccard": overlap / (size_reference + size_prediction - overlap),
    }
    box = bounding_box(reference | prediction)
    # One voxel of background all round: the surface filter takes voxels at the image's edge for inner ones.
    images = [sitk.GetImageFromArray(np.pad(mask[box], 1).astype(np.uint8)) for mask in (reference, prediction)]
    surfaces = [sitk.BinaryContour(image, fullyConnected=False, foregroundValue=1) for image in images]
    for unit, grid in (("mm", spacing), ("voxel", (1.0,) * reference.ndim)):
        for surface in surfaces:
            surface.SetSpacing([float(s) for s in grid[::-1]])
        to_reference = _distances(surfaces[1], surfaces[0])
        to_prediction = _distances(surfaces[0], surfaces[1])
        values[f"hd95_{unit}"] = float(np.percentile(np.concatenate((to_reference, to_prediction)), 95))
        values[f"asd_{unit}"] = float(to_reference.mean(dtype=np.float64))
    return values


def read_labels(dataset: dict, origin: Path) -> tuple[dict[str, tuple[int, ...]], int | None]:
    """The foreground classes of a ``dataset.json`` (name -> its labels, several for a region) and the ignore label.

    ``origin`` is the file's path, for the InputError that is raised when ``labels`` or ``file_ending`` is missing.
    """
    require_keys(dataset, {"labels": (dict,), "file_ending": (str,)}, origin, advice="give an nnU-Net v2 dataset.json")
    labels = {name: tuple(value if isinstance(value, list) else [value]) for name, value in dataset["labels"].items()}
    for name, values in labels.items():
        if not values or not all(type(value) is int and 0 <= value < 2**16 for value in values):
            raise InputError(f"{origin}: 'labels' must map names to integers; that of {name[:60]!r} is no such value.")
    ignore = labels.pop("ignore", (None,))[0]
    classes = {name: values for name, values in labels.items() if set(values) != {0}}
    if not classes:
        raise InputError(f"{origin} declares no foreground class.")
    return classes, ignore


def segmentations(reference: Path, ending: str) -> list[Path]:
    """The reference segmentations in a folder, sorted. Raises InputError if there is none."""
    files = sorted(f for f in reference.iterdir() if f.name.endswith(ending) and not is_clutter(f.name))
    if not files:
        raise InputError(f"{reference} holds no {ending} file: give the folder of the reference segmentations.")
    return files


def find_dataset_json(reference: Path, prediction: Path) -> Path:
    """The file that names the classes: in ``prediction``, else beside ``reference``. InputError if there is none."""
    candidates = [prediction / "dataset.json", reference.resolve().parent / "dataset.json"]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise InputError(f"No dataset.json at {candidates[0]} or {candidates[1]}: name it with --dataset-json.")


def _evaluate_case(
    reader: type[BaseReaderWriter],
    reference_file: Path,
    prediction_file: Path,
    classes: dict[str, tuple[int, ...]],
    ignore: int | None,
    measure: bool,
) -> tuple[dict[str, Values], Difference, set[str]]:
    """The values per class of one case, how its prediction is stored differently, and the classes that it has.

    Raises InputError for a fault of its files.
    """
    reference, grid, spacing = read_segmentation(reader, reference_file, classes, ignore)
    prediction, grid_prediction, _ = read_segmentation(reader, prediction_file, classes, ignore)
    prediction, difference = align(
        prediction, grid_prediction, grid, f"{prediction_file.name}: the prediction", "its reference"
    )
    if not measure:
        return {}, difference, set()
    if reference.shape[0] == 1:  # a 2D image
        reference, prediction, spacing = reference[0], prediction[0], spacing[1:]
    keep = True if ignore is None else reference != ignore
    values, predicted = {}, set()
    for name, labels in classes.items():
        masks = [np.isin(segmentation, labels) & keep for segmentation in (reference, prediction)]
        values[name] = measure_masks(*masks, spacing)
        if masks[1].any():
            predicted.add(name)
    return values, difference, predicted


def read_segmentation(
    reader: type[BaseReaderWriter], file: Path, classes: dict[str, tuple[int, ...]], ignore: int | None
) -> tuple[np.ndarray, VoxelGrid, tuple[float, ...]]:
    """The segmentation ``(z, y, x)``, its grid and its spacing in mm as nnU-Net has it."""
    array, properties = read_file(reader, file, str(file), segmentation=True)
    spacing = tuple(round(float(s), 6) for s in properties["spacing"])
    if len(array) != 1:
        raise InputError(f"{file}: holds several volumes or colors, shape {array.shape}; save the one that counts")
    array = array[0]
    known = {0, ignore} | {label for labels in classes.values() for label in labels}
    unknown = [float(v) for v in np.unique(array) if v not in known]
    if unknown:
        raise InputError(f"{file}: voxel values {unknown[:5]} are not declared in dataset.json")
    return array, grid_of(array.shape, properties), spacing


def bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest box that holds a mask, which is not empty."""
    other_axes = [tuple(a for a in range(mask.ndim) if a != axis) for axis in range(mask.ndim)]
    extents = [np.flatnonzero(mask.any(axis=axes)) for axes in other_axes]
    return tuple(slice(extent[0], extent[-1] + 1) for extent in extents)


def _distances(source: sitk.Image, target: sitk.Image) -> np.ndarray:
    """For each surface voxel of ``source``, the distance to the nearest surface voxel of ``target``."""
    distance_map = sitk.SignedMaurerDistanceMap(target, squaredDistance=False, useImageSpacing=True)
    distances = sitk.GetArrayViewFromImage(distance_map)[sitk.GetArrayViewFromImage(source) > 0]
    return np.abs(distances)


def _without_reference(
    per_case: dict[str, dict[str, Values]], classes: Iterable[str], declared: dict[str, tuple[str, ...]]
) -> dict[str, dict[str, list[str]]]:
    """``absent`` and ``not_annotated``; ``declared`` are the classes that were not annotated, by case."""
    found: dict[str, dict[str, list[str]]] = {"absent": {c: [] for c in classes}}
    found["not_annotated"] = {c: [] for c in found["absent"]}
    for case, values in per_case.items():
        for c in found["absent"]:
            if values[c]["dice"] is None:
                found["not_annotated" if c in declared.get(case, ()) else "absent"][c].append(case)
    return found


def _summarize(per_case: dict[str, dict[str, Values]], classes: list[str], metric: str) -> dict:
    per_class = {c: _mean([values[c][metric] for values in per_case.values()]) for c in classes}
    return {
        "mean": _mean(list(per_class.values())),
        "per_class": per_class,
        "per_case": {case: {c: values[c][metric] for c in classes} for case, values in per_case.items()},
    }


def _mean(values: list[float | None]) -> float | None:
    present = [v for v in values if v is not None]
    return float(np.mean(present)) if present else None
