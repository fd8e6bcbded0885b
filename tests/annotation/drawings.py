"""Labels of unlabeled phantoms in the forms in which people bring them, and what a dataset's files are."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from workbench import Dataset, InProcess

from nnunet_ssl.annotation.adopt import adopt_labels

NAMES = ("liver", "kidney")  # labels 1 and 2 of the phantoms of three classes


def unlabeled(dataset: Dataset) -> list[str]:
    """Ids of the unlabeled cases."""
    files = sorted((dataset.raw / "imagesUnlabeled").glob("*_0000.*"))
    return [file.name.rpartition("_0000")[0] for file in files]


def scan(dataset: Dataset, case: str) -> sitk.Image:
    (file,) = list(dataset.raw.glob(f"images*/{case}_0000.*"))
    return sitk.ReadImage(str(file))


def label_of(dataset: Dataset, case: str) -> sitk.Image:
    """A liver and a kidney, drawn as boxes on the scan of a case."""
    image = scan(dataset, case)
    voxels = np.zeros(image.GetSize()[::-1], np.uint8)
    voxels[..., 5:12, 4:14] = 1
    voxels[..., 6:9, 16:20] = 2
    return like(voxels, image)


def like(voxels: np.ndarray, image: sitk.Image) -> sitk.Image:
    """An image with the geometry of another one."""
    made = sitk.GetImageFromArray(voxels)
    made.CopyInformation(image)
    return made


def as_segments(label: sitk.Image, names=NAMES, **more: str) -> sitk.Image:
    """As 3D Slicer stores a label map in one layer."""
    for number, name in enumerate(names):
        keys = {"ID": f"Segment_{number + 1}", "Name": name, "LabelValue": str(number + 1), "Layer": "0"}
        for key, value in keys.items():
            label.SetMetaData(f"Segment{number}_{key}", value)
    for key, value in more.items():
        label.SetMetaData(key, value)
    return label


def in_layers(masks: dict[str, np.ndarray], image: sitk.Image) -> sitk.Image:
    """As 3D Slicer stores segments that overlap: a layer for each."""
    layers = sitk.Compose(*[like(mask.astype(np.uint8), image) for mask in masks.values()])
    for number, name in enumerate(masks):
        for key, value in {"Name": name, "LabelValue": "1", "Layer": str(number)}.items():
            layers.SetMetaData(f"Segment{number}_{key}", value)
    return layers


def put(image: sitk.Image, file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(file), True)
    return file


def draw(dataset: Dataset, folder: Path, *cases: str, ending: str = ".nii.gz") -> Path:
    """A folder with the label of each case."""
    for case in cases:
        put(label_of(dataset, case), folder / f"{case}{ending}")
    return folder


def suggest(place: Path, *drafts: tuple[str, str]) -> None:
    """The `suggested.json` that names cases and the digests of their drafts."""
    entries = [{"case": case, "draft": f"{case}.nii.gz", "draft_digest": digest} for case, digest in drafts]
    place.mkdir(exist_ok=True)
    (place / "suggested.json").write_text(json.dumps({"strategy": "entropy", "model": "x", "cases": entries}))


def take(folder: Path, **options) -> list[str]:
    """Adopts a folder into dataset 7 without asking."""
    return adopt_labels(7, folder, agree=lambda question: True, **options)


def tree(root: Path) -> dict[str, str]:
    """Every file below a folder, with its sha256 and mode; what a link points at."""
    found = {}
    for file in sorted(root.rglob("*")):
        if file.is_symlink():
            found[str(file.relative_to(root))] = os.readlink(file)
        elif file.is_file() and file.suffix != ".lock":  # a killed process leaves its own
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            found[str(file.relative_to(root))] = f"{digest} {file.stat().st_mode}"
    return found


def folders(root: Path) -> set[str]:
    """Every folder below a folder."""
    return {str(place.relative_to(root)) for place in root.rglob("*") if place.is_dir()}


def own_copy(phantom: Dataset, to: Path, monkeypatch) -> Dataset:
    """A private copy of a phantom of 4 labeled, 5 unlabeled and 1 test case; all work is done in this process."""
    monkeypatch.setattr("nnunet_ssl.pools.ProcessPoolExecutor", InProcess)
    return phantom.copy(to).use(monkeypatch)


def content(file: Path):
    return json.loads(file.read_text(encoding="utf-8"))
