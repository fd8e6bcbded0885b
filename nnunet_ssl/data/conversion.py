"""What the converters of public data sets share: the choice of labeled cases, checks, provenance, safe writing.

A converter is one function that looks at a source folder and returns a :class:`Conversion`;
:func:`write_raw_dataset` does the rest.
"""

import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets
from tqdm import tqdm

import nnunet_ssl
from nnunet_ssl.data.raw import environment_folder, nifti_is_whole
from nnunet_ssl.errors import InputError

FILE_ENDING = ".nii.gz"
IMAGE_FOLDERS = {"labeled": "imagesTr", "unlabeled": "imagesUnlabeled", "test": "imagesTs"}
LABEL_FOLDERS = {"labeled": "labelsTr", "test": "labelsTs"}


@dataclass(frozen=True)
class Case:
    """One case of the source.

    Attributes:
        id: its name in the raw dataset.
        part: ``labeled``, ``unlabeled`` or ``test``.
        images: what holds the image, one path per channel.
        label: what holds the label; None for a case without one, and always for an unlabeled case.
    """

    id: str
    part: str
    images: tuple[Path, ...]
    label: Path | None

    def __post_init__(self) -> None:
        if self.part == "unlabeled" and self.label is not None:
            raise ValueError(f"Unlabeled case {self.id} has a label.")


@dataclass(frozen=True)
class Conversion:
    """What a converter found in a source and how to read it.

    Attributes:
        converter: the name of the converter.
        channels: channel names for ``dataset.json``.
        labels: class name -> label value for ``dataset.json``.
        cases: all cases, in the order of the protocol.
        read_image: path -> scalar 3D image; raises :class:`InputError` (file and what to do) if it cannot.
        read_label: path -> label image in the values of ``labels``; raises the same. Both are module-level functions.
        source: what the source is (layout, path as the user gave it), for ``conversion.json``.
        protocol: how the cases were chosen, the assumptions made, for ``conversion.json``.
        warnings: what a user of the data should know.
    """

    converter: str
    channels: tuple[str, ...]
    labels: dict[str, int]
    cases: list[Case]
    read_image: Callable[[Path], sitk.Image]
    read_label: Callable[[Path], sitk.Image]
    source: dict[str, Any]
    protocol: dict[str, Any]
    warnings: list[str] = field(default_factory=list)

    def ids(self, part: str) -> list[str]:
        """The ids of the labeled, unlabeled or test cases, in the order of the protocol."""
        return [case.id for case in self.cases if case.part == part]

    def provenance(self) -> dict[str, Any]:
        """The contents of ``conversion.json``."""
        return {
            "converter": self.converter,
            "version": nnunet_ssl.__version__,
            "source": self.source,
            "protocol": self.protocol,
            "warnings": self.warnings,
            **{part: self.ids(part) for part in IMAGE_FOLDERS},
            "source_bytes": {case.id: _source_bytes(case) for case in self.cases},
        }


def read_ids(path: Path) -> list[str]:
    """The ids of a list file, one a line, in order; blank lines are skipped.

    Raises:
        InputError: the file is missing, no text, empty, or names an id twice.
    """
    try:
        ids = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read the list {path}: {error}") from error
    twice = sorted({name for name in ids if ids.count(name) > 1})
    if twice:
        raise InputError(f"{path} names more than once: {', '.join(twice)}. Keep one line of each.")
    if not ids:
        raise InputError(f"{path} is empty. Write one case id a line.")
    return ids


def choose_labeled(train: list[str], test: list[str], labeled: int | Path) -> tuple[list[str], list[str]]:
    """Divides the training list into labeled and unlabeled ids.

    Args:
        labeled: the number of labeled cases (the first of ``train``), or a file with one id a line.

    Returns:
        The labeled ids (in the order of the file if one is given) and the rest of ``train`` in its order.

    Raises:
        InputError: more labeled cases than training cases; or ids of the file that are test cases or unknown.
    """
    if isinstance(labeled, int):
        if not 1 <= labeled <= len(train):
            raise InputError(f"{labeled} labeled cases were asked for: choose 1 to {len(train)} (the training list).")
        return train[:labeled], train[labeled:]
    chosen = read_ids(labeled)
    if in_test := [name for name in chosen if name in test]:
        raise InputError(f"{labeled} names test cases as labeled: {', '.join(in_test)}. Take them out.")
    if unknown := [name for name in chosen if name not in train]:
        raise InputError(f"{labeled} names cases that are not in the training list: {', '.join(unknown)}.")
    return chosen, [name for name in train if name not in chosen]


def read_volume(path: Path) -> sitk.Image:
    """Reads a scalar 3D image file with its geometry.

    Raises:
        InputError: missing, unreadable, truncated, or no scalar 3D volume.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing; fetch it again")
    damaged = f"{path} cannot be read (damaged or truncated); fetch it again"
    if path.name.endswith((".nii", ".nii.gz")) and not nifti_is_whole(path):
        raise InputError(damaged)
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise InputError(damaged) from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(f"{path} is no scalar 3D volume (size {image.GetSize()}); replace it")
    return image


def write_raw_dataset(conversion: Conversion, dataset_id: int, name: str, processes: int = 1) -> tuple[Path, bool]:
    """Writes ``Dataset{id}_{name}`` into ``nnUNet_raw``, whole or not at all.

    Everything goes into a hidden folder beside the target, which is renamed at the end; what a killed run left there
    is removed by the next one. One run per dataset at a time.

    Args:
        processes: worker processes; 1 converts in this process.

    Returns:
        The dataset's folder, and whether it was written: False if the same conversion was there already.

    Raises:
        InputError: ``nnUNet_raw`` is unset; the id is taken by a dataset that is not this conversion; or cases are
            bad (all of them named at once).
    """
    if not 1 <= dataset_id <= 999:
        raise InputError(f"Dataset id {dataset_id}: nnU-Net's ids go from 1 to 999.")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise InputError(f"Dataset name '{name}': use letters, digits, '_' and '-' only.")
    root = environment_folder("nnUNet_raw")
    target = root / f"Dataset{dataset_id:03d}_{name}"
    provenance = conversion.provenance()
    if others := [str(other) for other in find_candidate_datasets(dataset_id) if other != target.name]:
        raise InputError(f"Dataset id {dataset_id} is taken by {', '.join(others)}. Choose another --dataset-id.")
    if target.exists():
        _require_same(target, conversion, provenance)
        return target, False

    root.mkdir(parents=True, exist_ok=True)
    # nnU-Net lists folders that begin with "Dataset": it cannot see this one.
    for leftover in root.glob(f".{target.name}.partial-*"):
        shutil.rmtree(leftover)
    aside = root / f".{target.name}.partial-{os.getpid()}"
    try:
        for path in _expected_files(conversion):
            (aside / path).parent.mkdir(parents=True, exist_ok=True)
        faults = [fault for faults in _convert_cases(conversion, aside, processes) for fault in faults]
        if faults:
            raise InputError("Nothing was converted, these cases are bad:\n" + "\n".join(f"  {f}" for f in faults))
        _write_json(aside / "conversion.json", provenance)
        _write_json(aside / "dataset.json", _dataset_json(conversion))
        aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target, True


def _convert_cases(conversion: Conversion, folder: Path, processes: int) -> Iterator[list[str]]:
    convert = partial(
        _convert_case,
        folder=folder,
        values=sorted(conversion.labels.values()),
        read_image=conversion.read_image,
        read_label=conversion.read_label,
    )
    progress = partial(tqdm, total=len(conversion.cases), desc="Converting", unit="case")
    if processes == 1:
        yield from progress(map(convert, conversion.cases))
        return
    try:
        with ProcessPoolExecutor(processes, get_context("spawn"), initializer=_end_with_parent) as pool:
            yield from progress(pool.map(convert, conversion.cases))
    except BrokenProcessPool as error:
        raise InputError("A worker process died (out of memory?). Run again with a smaller -np.") from error


def _end_with_parent() -> None:
    # The workers of a killed run would otherwise wait for work forever.
    def watch() -> None:
        parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _convert_case(
    case: Case,
    folder: Path,
    values: list[int],
    read_image: Callable[[Path], sitk.Image],
    read_label: Callable[[Path], sitk.Image],
) -> list[str]:
    """Reads, checks and writes one case; returns its faults, each with case, file and what to do."""
    faults = []
    volumes = []
    for path, read, faults_of in [
        *((path, read_image, _image_faults) for path in case.images),
        *([(case.label, read_label, partial(_label_faults, values=values))] if case.label else []),
    ]:
        try:
            volume = read(path)
        except InputError as error:
            faults.append(str(error))
            continue
        volumes.append(volume)
        faults += [f"{path} {fault}" for fault in faults_of(volume)]
        faults += [f"{path} {fault}" for fault in _geometry_faults(volume, volumes[0])]
    if faults:
        return [f"{case.id}: {fault}" for fault in faults]
    for channel, image in enumerate(volumes[: len(case.images)]):
        _write_volume(image, folder / _image_file(case, channel))
    if case.label:
        label = sitk.Cast(volumes[-1], sitk.sitkUInt8)
        label.CopyInformation(volumes[0])  # headers that differ by rounding only are made equal
        _write_volume(label, folder / _label_file(case))
    return []


def _image_faults(image: sitk.Image) -> list[str]:
    voxels = sitk.GetArrayViewFromImage(image)
    if not np.isfinite(voxels).all():
        return ["holds NaN or infinite values; replace them"]
    if voxels.min() == voxels.max():
        return [f"is empty: every voxel is {voxels.min()}; replace it"]
    return []


def _label_faults(label: sitk.Image, values: list[int]) -> list[str]:
    found = np.unique(sitk.GetArrayViewFromImage(label))
    if unexpected := [value.item() for value in found if value not in values]:
        return [f"has label values {unexpected[:10]} besides {values}; mend the label"]
    return []


def _geometry_faults(volume: sitk.Image, first: sitk.Image) -> list[str]:
    compared = {
        "shape": (volume.GetSize(), first.GetSize()),
        "spacing": (volume.GetSpacing(), first.GetSpacing()),
        "origin": (volume.GetOrigin(), first.GetOrigin()),
        "direction": (volume.GetDirection(), first.GetDirection()),
    }
    return [
        f"has {what} {own} but the case's (first) image {wanted}; pair the right files"
        for what, (own, wanted) in compared.items()
        if not np.allclose(own, wanted, rtol=1e-5, atol=1e-4)
    ]


def _write_volume(image: sitk.Image, path: Path) -> None:
    sitk.WriteImage(image, str(path))
    if not nifti_is_whole(path):
        raise InputError(f"{path} could not be written whole. Is the disk full? Make room and run again.")


def _image_file(case: Case, channel: int) -> str:
    return f"{IMAGE_FOLDERS[case.part]}/{case.id}_{channel:04d}{FILE_ENDING}"


def _label_file(case: Case) -> str:
    return f"{LABEL_FOLDERS[case.part]}/{case.id}{FILE_ENDING}"


def _expected_files(conversion: Conversion) -> list[str]:
    images = [_image_file(case, channel) for case in conversion.cases for channel in range(len(case.images))]
    return images + [_label_file(case) for case in conversion.cases if case.label]


def _dataset_json(conversion: Conversion) -> dict[str, Any]:
    return {
        "channel_names": {str(i): channel for i, channel in enumerate(conversion.channels)},
        "labels": conversion.labels,
        "numTraining": len(conversion.ids("labeled")),
        "file_ending": FILE_ENDING,
    }


def _require_same(target: Path, conversion: Conversion, provenance: dict[str, Any]) -> None:
    advice = "Choose another --dataset-id, or remove that folder first."
    try:
        present = json.loads((target / "conversion.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{target} exists and is not of this converter (no conversion.json). {advice}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{target / 'conversion.json'} cannot be read. {advice}") from error
    wanted = json.loads(json.dumps(provenance))
    for record in (present, wanted):
        # A moved source or a newer version of this package does not make it another dataset.
        record.pop("version", None)
        record.get("source", {}).pop("path", None)
    if differing := [key for key in {**wanted, **present} if wanted.get(key) != present.get(key)]:
        raise InputError(f"{target} exists and is another conversion: it differs in {', '.join(differing)}. {advice}")
    expected = [*_expected_files(conversion), "dataset.json"]
    if missing := [path for path in expected if not (target / path).is_file()]:
        raise InputError(f"{target} is incomplete, missing: {', '.join(missing)}. Remove that folder and run again.")


def _source_bytes(case: Case) -> dict[str, int]:
    paths = dict.fromkeys([*case.images, *([case.label] if case.label else [])])
    return {path.name: path.stat().st_size for path in paths if path.is_file()}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
