"""What the converters of public data sets share: checks, provenance, safe writing.

A converter is one function that looks at a source folder and returns a :class:`Conversion`;
:func:`write_raw_dataset` does the rest.
"""

import errno
import glob
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets
from tqdm import tqdm

import nnunet_ssl
from nnunet_ssl.data.headers import nifti_is_whole
from nnunet_ssl.data.protocols import PARTS
from nnunet_ssl.data.raw import environment_folder, listed
from nnunet_ssl.data.sources import read_volume, with_geometry
from nnunet_ssl.data.space import Difference, align, grid_of_image, summarize, worst
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import check_case_ids, is_clutter, read_json, require_keys

FILE_ENDING = ".nii.gz"
IMAGE_FOLDERS = {"labeled": "imagesTr", "unlabeled": "imagesUnlabeled", "test": "imagesTs"}
LABEL_FOLDERS = {"labeled": "labelsTr", "test": "labelsTs"}
GEOMETRY = ("GetSize", "GetSpacing", "GetOrigin", "GetDirection")


@dataclass(frozen=True)
class Case:
    """One case of the source.

    Attributes:
        id: its name in the raw dataset.
        part: ``labeled``, ``unlabeled`` or ``test``.
        images: what holds the image: one path per channel, or one for all of them.
        label: what holds the label; None for a case without one, and always for an unlabeled case.
    """

    id: str
    part: str
    images: tuple[Path, ...]
    label: Path | None

    def __post_init__(self) -> None:
        if self.part == "unlabeled" and self.label is not None:
            raise ValueError(f"Unlabeled case {self.id} has a label.")
        check_case_ids([self.id], self.images[0])


@dataclass(frozen=True)
class Conversion:
    """What a converter found in a source and how to read it.

    Attributes:
        converter: the name of the converter.
        channels: channel names for ``dataset.json``.
        labels: class name -> label value for ``dataset.json``.
        cases: all cases, in the order of the protocol.
        read_image: path -> scalar 3D image, or the list of them if the file holds several channels; raises
            :class:`InputError` (file and what to do) if it cannot.
        read_label: path -> label image in the values of ``labels``; raises the same. Readers must be picklable.
        source: what the source is (layout, path as the user gave it), for ``conversion.json``.
        protocol: how the cases were chosen, the assumptions made, for ``conversion.json``.
        warnings: what a user of the data should know.
        name: the usual name of the dataset.
        fit_label: (label, image, path of the label) -> label on the image's grid, for data sets whose label headers
            cannot be trusted; None if they can. Raises :class:`InputError` if it cannot.
        reader_writer: the nnU-Net class that reads the images, if not the one of the file ending.
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
    name: str = ""
    fit_label: Callable[[sitk.Image, sitk.Image, Path], sitk.Image] | None = None
    reader_writer: str | None = None

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
            **{part: self.ids(part) for part in PARTS},
            "source_bytes": {case.id: _source_bytes(case) for case in self.cases},
        }


def pair_cases(parts: dict[str, list[str]], images: dict[str, Path], labels: dict[str, Path]) -> list[Case]:
    """The cases of a data set that keeps images and labels by id, one file each.

    Raises:
        InputError: a labeled or test case has no label (no test case at all may have one).
    """
    needed = parts["labeled"] + (parts["test"] if any(name in labels for name in parts["test"]) else [])
    if missing := [name for name in needed if name not in labels]:
        raise InputError(f"The source lacks the labels of {listed(missing, 20, ', ')}. Add them.")
    return [
        Case(name, part, (images[name],), None if part == "unlabeled" else labels.get(name))
        for part, names in parts.items()
        for name in names
    ]


def write_raw_dataset(
    conversion: Conversion, dataset_id: int, name: str, processes: int = 1, link: bool = False
) -> tuple[Path, bool]:
    """Writes ``Dataset{id}_{name}`` into ``nnUNet_raw``, whole or not at all.

    Label and further channels of a case are brought onto the grid of its first image and get its header;
    ``conversion.json`` says under ``space`` for which cases that changed something (``space.summarize``).

    Everything goes into a hidden folder beside the target, which is renamed at the end; what a killed run left there
    is removed by the next one. One run per dataset at a time.

    Args:
        processes: worker processes; 1 converts in this process.
        link: links files that fit as they are (hard links, symbolic ones to another file system) in place of copies.

    Returns:
        The dataset's folder, and whether it was written: False if the same conversion was there already.

    Raises:
        InputError: ``nnUNet_raw`` is unset; the id is taken by a dataset that is not this conversion; or cases are
            bad (all of them named at once).
    """
    if not 1 <= dataset_id <= 999:
        raise InputError(f"Dataset id {dataset_id}: nnU-Net's ids go from 1 to 999.")
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", name):
        raise InputError(f"Dataset name {name[:60]!r}: use at most 100 letters, digits, '_' and '-'.")
    root = environment_folder("nnUNet_raw")
    target = root / f"Dataset{dataset_id:03d}_{name}"
    provenance = conversion.provenance()
    if others := [str(other) for other in find_candidate_datasets(dataset_id) if other != target.name]:
        raise InputError(f"Dataset id {dataset_id} is taken by {', '.join(others)}. Choose another --dataset-id.")
    if target.exists():
        _require_same(target, conversion, provenance)
        return target, False

    _require_level(conversion)
    root.mkdir(parents=True, exist_ok=True)
    # nnU-Net lists folders that begin with "Dataset": it cannot see this one.
    for leftover in root.glob(f".{target.name}.partial-*"):
        shutil.rmtree(leftover)
    aside = root / f".{target.name}.partial-{os.getpid()}"
    try:
        for path in _expected_files(conversion):
            (aside / path).parent.mkdir(parents=True, exist_ok=True)
        faults, differences = [], {}
        for case, outcome in zip(conversion.cases, _convert_cases(conversion, aside, processes, link), strict=True):
            if isinstance(outcome, Difference):
                differences[case.id] = outcome
            else:
                faults.append(outcome)
        if faults:
            raise InputError("Nothing was converted, these cases are bad:\n  " + listed(faults, separator="\n  "))
        _write_json(aside / "conversion.json", {**provenance, "space": summarize(differences)})
        _write_json(aside / "dataset.json", _dataset_json(conversion))
        aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target, True


def _require_level(conversion: Conversion) -> None:
    """Raises :class:`InputError` where files lie one folder deeper than they should, as some copies have them."""
    deeper = []
    for path in (path for case in conversion.cases for path in (*case.images, case.label) if path):
        if path.is_dir():  # a DICOM series, or a folder that has the name of its only file
            found = [path / path.name] if (path / path.name).is_file() else []
        else:
            # Such a folder may be named without the .gz of the file, or hold the file without it.
            stem = glob.escape(path.name.partition(".")[0])
            found = [] if path.is_file() else sorted(path.parent.glob(f"*/{stem}.*"))
        deeper += [f"{path} ({file.relative_to(path.parent)})" for file in found[:1]]
    if deeper:
        raise InputError(f"{len(deeper)} files lie one folder deeper than they should: {listed(deeper)}. Move them up.")


def _convert_cases(conversion: Conversion, folder: Path, processes: int, link: bool) -> Iterator[str | Difference]:
    # A worker needs the readers and the labels, not the other cases.
    convert = partial(_convert_case, folder=folder, link=link, conversion=replace(conversion, cases=[]))
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


def _convert_case(case: Case, folder: Path, link: bool, conversion: Conversion) -> str | Difference:
    """Reads, checks and writes one case.

    Returns its faults, each with case, file and what to do, or else how its volumes are stored differently.
    """
    faults = []
    images: list[tuple[Path, sitk.Image]] = []
    for path in case.images:
        try:
            read = conversion.read_image(path)
        except InputError as error:
            faults.append(str(error))
            continue
        images += [(path, image) for image in (read if isinstance(read, list) else [read])]
    if not faults and len(images) != len(conversion.channels):
        faults.append(f"{case.images[0]} and its like hold {len(images)} channels, not {len(conversion.channels)}")
    label = None
    if case.label:
        try:
            label = conversion.read_label(case.label)
            if conversion.fit_label and images:
                label = conversion.fit_label(label, images[0][1], case.label)
        except InputError as error:
            faults.append(str(error))
    for path, image in images:
        faults += [f"{path} {fault}" for fault in _image_faults(image)]
    if label is not None:
        faults += [f"{case.label} {fault}" for fault in _label_faults(label, sorted(conversion.labels.values()))]
    stored = images + ([(case.label, label)] if label is not None else [])
    volumes, differences = [], []
    for path, volume in stored:
        try:
            on_grid, difference = _on_grid(volume, stored[0][1], path)
        except InputError as error:
            faults.append(str(error))
            continue
        volumes.append((on_grid, path if on_grid is volume else None))  # what a link may stand for
        differences.append(difference)
    if faults:
        return f"{case.id}: {'; '.join(dict.fromkeys(faults))}"  # image and label may be one file

    fits = link and conversion.read_image is read_volume
    for channel, (image, same) in enumerate(volumes[: len(images)]):
        _put_volume(image, folder / _image_file(case, channel), same if fits else None)
    if label is not None:
        label, same = volumes[-1]
        fits = link and conversion.read_label is read_volume and conversion.fit_label is None
        _put_volume(sitk.Cast(label, sitk.sitkUInt8), folder / _label_file(case), same if fits else None)
    return worst(differences)


def _on_grid(volume: sitk.Image, first: sitk.Image, path: Path) -> tuple[sitk.Image, Difference]:
    """A volume of a case on the grid of its first image: itself, or its voxels, turned if need be, with that header."""
    if all(getattr(volume, get)() == getattr(first, get)() for get in GEOMETRY):
        return volume, Difference()
    voxels, grids = sitk.GetArrayViewFromImage(volume), (grid_of_image(volume), grid_of_image(first))
    voxels, difference = align(voxels, *grids, str(path), "the case's (first) image")
    return with_geometry(voxels, first), difference


def _image_faults(image: sitk.Image) -> list[str]:
    voxels = sitk.GetArrayViewFromImage(image)
    if not voxels.size:
        return ["has no voxels; replace it"]
    if not np.isfinite(voxels).all():
        return ["holds NaN or infinite values; replace them"]
    if voxels.min() == voxels.max():
        return [f"is empty: every voxel is {voxels.min()}; replace it"]
    if not grid_of_image(image).is_known():
        return ["has a header that does not say where its voxels stand; mend it"]
    return []


def _label_faults(label: sitk.Image, values: list[int]) -> list[str]:
    found = np.unique(sitk.GetArrayViewFromImage(label))
    if unexpected := [value.item() for value in found if value not in values]:
        return [f"has label values {unexpected[:10]} besides {values}; mend the label"]
    return []


def _put_volume(image: sitk.Image, path: Path, same: Path | None) -> None:
    """Writes a volume, or links to ``same``, the source file that holds it, where its ending fits."""
    if same is None or not same.name.endswith(FILE_ENDING):
        sitk.WriteImage(image, str(path))
        if not nifti_is_whole(path):
            raise InputError(f"{path} could not be written whole. Is the disk full? Make room and run again.")
        return
    same = same.resolve()  # a hard link to a symbolic link would be another symbolic link
    try:
        path.hardlink_to(same)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
            raise
        path.symlink_to(same)


def _image_file(case: Case, channel: int) -> str:
    return f"{IMAGE_FOLDERS[case.part]}/{case.id}_{channel:04d}{FILE_ENDING}"


def _label_file(case: Case) -> str:
    return f"{LABEL_FOLDERS[case.part]}/{case.id}{FILE_ENDING}"


def _expected_files(conversion: Conversion) -> list[str]:
    images = [_image_file(case, channel) for case in conversion.cases for channel in range(len(conversion.channels))]
    return images + [_label_file(case) for case in conversion.cases if case.label]


def _dataset_json(conversion: Conversion) -> dict[str, Any]:
    reader_writer = conversion.reader_writer
    return {
        "channel_names": {str(i): channel for i, channel in enumerate(conversion.channels)},
        "labels": conversion.labels,
        "numTraining": len(conversion.ids("labeled")),
        "file_ending": FILE_ENDING,
        **({"overwrite_image_reader_writer": reader_writer} if reader_writer else {}),
    }


def _require_same(target: Path, conversion: Conversion, provenance: dict[str, Any]) -> None:
    advice = "Choose another --dataset-id, or remove that folder first."
    file = target / "conversion.json"
    if not file.exists():
        raise InputError(f"{target} exists and is not of this converter (no conversion.json). {advice}")
    present = read_json(file, "choose another --dataset-id, or remove its folder first")
    require_keys(present, {"source": (dict,)}, file, advice="choose another --dataset-id, or remove its folder first")
    wanted = json.loads(json.dumps(provenance))
    for record in (present, wanted):
        # A moved source or a newer version of this package does not make it another dataset.
        record.pop("version", None)
        record.pop("space", None)  # known after the conversion alone
        record.get("source", {}).pop("path", None)
    if differing := [key for key in {**wanted, **present} if wanted.get(key) != present.get(key)]:
        raise InputError(f"{target} exists and is another conversion: it differs in {', '.join(differing)}. {advice}")
    expected = [*_expected_files(conversion), "dataset.json"]
    if missing := [path for path in expected if not (target / path).is_file()]:
        raise InputError(f"{target} is incomplete, missing: {', '.join(missing)}. Remove that folder and run again.")


def _source_bytes(case: Case) -> dict[str, int]:
    paths = dict.fromkeys([*case.images, *([case.label] if case.label else [])])
    return {path.name: _bytes_of(path) for path in paths if path.exists()}


def _bytes_of(path: Path) -> int:
    files = [path] if path.is_file() else [f for f in path.iterdir() if f.is_file() and not is_clutter(f.name)]
    return sum(file.stat().st_size for file in files)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
