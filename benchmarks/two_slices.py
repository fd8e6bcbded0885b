"""Hides all labels of a raw data set but two orthogonal slices of each training case, for sparse annotation.

    python benchmarks/two_slices.py nnUNet_raw/Dataset018_LA nnUNet_raw/Dataset019_LASlices

The slices are the middle ones of the foreground, across the first and the second axis; all else has the label
"ignore". Images are linked, and a source is never changed. Then: plan and preprocess, `nnunet_ssl propagate`, train.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk

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
    ignore = max(np.max(labels) for labels in content["labels"].values()) + 1
    (target / "labelsTr").mkdir(parents=True)
    for file in sorted((source / "labelsTr").glob(f"*{content['file_ending']}")):
        image = sitk.ReadImage(str(file))
        sparse = sitk.GetImageFromArray(two_slices(sitk.GetArrayFromImage(image), int(ignore)))
        sparse.CopyInformation(image)
        sitk.WriteImage(sparse, str(target / "labelsTr" / file.name))
    for folder in ("imagesTr", "imagesTs", "labelsTs", "imagesUnlabeled"):
        if (source / folder).is_dir():
            os.symlink(source / folder, target / folder)
    write_json(content | {"labels": content["labels"] | {"ignore": int(ignore)}}, target / "dataset.json")


if __name__ == "__main__":
    main()
