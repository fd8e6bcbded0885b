"""Hides all labels of a raw data set but two orthogonal slices of each training case, for sparse annotation.

    python benchmarks/two_slices.py nnUNet_raw/Dataset018_LA nnUNet_raw/Dataset019_LASlices

The slices are the middle ones of the foreground, across the first and the second axis; all else has the label
"ignore". Images are linked, and a source is never changed. Then: plan and preprocess, `nnunet_ssl propagate`, train.

`add_sliced` is for suites of `accuracy.py`: some cases once more, on the grid of training and annotated in two slices.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape, resample_data_or_seg_to_shape

from nnunet_ssl.errors import InputError
from nnunet_ssl.files import read_json, write_json


def two_slices(labels: np.ndarray, ignore: int) -> np.ndarray:
    """Labels (*spatial) of the middle slices of the foreground across axes 0 and 1, the ignore label elsewhere."""
    result = np.full_like(labels, ignore)
    for axis in (0, 1):
        others = tuple(other for other in range(labels.ndim) if other != axis)
        middle = int(np.median(np.flatnonzero((labels > 0).any(others)))) if labels.any() else labels.shape[axis] // 2
        place = (slice(None),) * axis + (middle,)
        result[place] = labels[place]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    asked = parser.parse_args()
    try:
        write_sparse(asked.source.resolve(), asked.target)
    except InputError as error:
        print(f"two_slices: {error}", file=sys.stderr)
        sys.exit(1)


def write_sparse(source: Path, target: Path) -> None:
    """Writes the data set with sparse labels; dataset.json last.

    Raises:
        InputError: the target exists, or the source has an ignore label.
    """
    content = read_json(source / "dataset.json", "give a raw data set of nnU-Net")
    if "ignore" in content["labels"]:
        raise InputError(f"{source / 'dataset.json'} has an ignore label already.")
    if target.exists():
        raise InputError(f"{target} exists: name a new folder.")
    ignore = _ignore_label(content)
    (target / "labelsTr").mkdir(parents=True)
    for file in sorted((source / "labelsTr").glob(f"*{content['file_ending']}")):
        image = sitk.ReadImage(str(file))
        sparse = sitk.GetImageFromArray(two_slices(sitk.GetArrayFromImage(image), ignore))
        sparse.CopyInformation(image)
        sitk.WriteImage(sparse, str(target / "labelsTr" / file.name))
    for folder in ("imagesTr", "imagesTs", "labelsTs", "imagesUnlabeled"):
        if (source / folder).is_dir():
            os.symlink(source / folder, target / folder)
    write_json(content | {"labels": content["labels"] | {"ignore": ignore}}, target / "dataset.json")


def sliced_name(case: str) -> str:
    """The case that `add_sliced` makes of another."""
    return f"{case}_slices"


def add_sliced(raw: Path, cases: Sequence[str], spacing: Sequence[float]) -> None:
    """Adds copies of labeled cases, resampled and then annotated in two slices, unless they are there.

    The slices are drawn on the grid of training, where they are one voxel thick: of slices that are thinner than its
    voxels, nnU-Net's resampling of labels would leave nothing, or background. dataset.json is written last.

    Args:
        raw: a raw data set of one channel.
        spacing: mm, in nnU-Net's order of axes (z, y, x).
    """
    content = read_json(raw / "dataset.json", "make the data set again")
    if "ignore" in content["labels"]:
        return
    ignore, ending = _ignore_label(content), content["file_ending"]
    for case in cases:
        image, labels = (
            resampled(sitk.ReadImage(str(raw / folder / f"{case}{end}{ending}")), spacing, is_seg=folder == "labelsTr")
            for folder, end in (("imagesTr", "_0000"), ("labelsTr", ""))
        )
        sparse = sitk.GetImageFromArray(two_slices(sitk.GetArrayFromImage(labels), ignore))
        sparse.CopyInformation(labels)
        sitk.WriteImage(image, str(raw / "imagesTr" / f"{sliced_name(case)}_0000{ending}"))
        sitk.WriteImage(sparse, str(raw / "labelsTr" / f"{sliced_name(case)}{ending}"))
    added = {"labels": content["labels"] | {"ignore": ignore}, "numTraining": content["numTraining"] + len(cases)}
    write_json(content | added, raw / "dataset.json")


def resampled(image: sitk.Image, spacing: Sequence[float], is_seg: bool) -> sitk.Image:
    """As nnU-Net's preprocessing resamples."""
    array, old = sitk.GetArrayFromImage(image)[None], image.GetSpacing()[::-1]
    shape = compute_new_shape(array.shape[1:], old, spacing)
    made = resample_data_or_seg_to_shape(
        array.astype(np.int16 if is_seg else np.float32), shape, old, spacing, is_seg, order=1 if is_seg else 3
    )[0]
    result = sitk.GetImageFromArray(np.asarray(made).astype(np.uint8 if is_seg else np.float32))
    result.SetSpacing([float(size) for size in spacing[::-1]])
    result.SetOrigin(image.GetOrigin())
    result.SetDirection(image.GetDirection())
    return result


def _ignore_label(content: dict) -> int:
    return int(max(np.max(labels) for labels in content["labels"].values())) + 1


if __name__ == "__main__":
    main()
