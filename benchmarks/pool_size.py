"""The disk that a pool of unlabeled scans takes once preprocessed, from one real scan, as float32 and as float16.

    python benchmarks/pool_size.py SCAN [--cases 500] [--voxels 512 512 150] [--spacing 2.5 0.8 0.8] [-o FILE]

SCAN is an image file or a folder of DICOM slices. It is clipped and normalized as nnU-Net does with CT, and stored by
nnU-Net's own writer twice: as it is, and resampled to a spacing in mm (z, y, x), which compresses less. Bytes per
voxel, times the voxels of a usual scan, times the cases, are the pool.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2
from workspace import versions

PATCH = (64, 160, 160)
GB = 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("scan", type=Path)
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--voxels", type=int, nargs=3, default=[512, 512, 150])
    parser.add_argument("--spacing", type=float, nargs=3, default=[2.5, 0.8, 0.8])
    parser.add_argument("-o", dest="out", type=Path, help="JSON file for the figures")
    asked = parser.parse_args()
    image, spacing = read(asked.scan)
    image = np.clip(image, *np.percentile(image, (0.5, 99.5)))
    image = ((image - image.mean()) / image.std()).astype(np.float32)[None]
    new_shape = [round(n * old / new) for n, old, new in zip(image.shape[1:], spacing, asked.spacing, strict=True)]
    resampled = resample_data_or_seg(image, new_shape, is_seg=False, order=3, do_separate_z=False)
    rows = []
    print(f"{'stored':12}{'type':>10}{'bytes a voxel':>15}{f'{asked.cases} cases, GB':>20}")
    for name, array in (("as it is", image), ("resampled", resampled)):
        for kind in (np.float32, np.float16):
            each = bytes_of(array.astype(kind)) / array.size
            row = {"stored": name, "type": kind.__name__, "bytes_per_voxel": each}
            row["pool_gb"] = each * math.prod(asked.voxels) * asked.cases / GB
            print(f"{name:12}{row['type']:>10}{each:15.2f}{row['pool_gb']:20.0f}")
            rows.append(row)
    if asked.out:
        about = {"scan": {"shape": image.shape[1:], "spacing": spacing}, "cases": asked.cases, "voxels": asked.voxels}
        about["rows"] = rows
        record = {
            "command": " ".join(sys.argv).replace(str(asked.scan), asked.scan.name),
            "versions": versions(),
        } | about
        asked.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def read(scan: Path) -> tuple[np.ndarray, tuple[float, ...]]:
    """Grey levels (z, y, x) and spacing in mm."""
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(scan)) if scan.is_dir() else str(scan)
    image = sitk.ReadImage(files)
    return sitk.GetArrayFromImage(image).astype(np.float32), image.GetSpacing()[::-1]


def bytes_of(array: np.ndarray) -> int:
    """On the disk, written as nnU-Net writes (C, *spatial)."""
    blocks, chunks = comp_blosc2_params(array.shape, PATCH, array.itemsize)
    with tempfile.TemporaryDirectory() as folder:
        case = Path(folder) / "case"
        voxel = np.zeros((1, 1, 1, 1), np.int16)
        sizes = {"chunks": chunks, "blocks": blocks, "chunks_seg": voxel.shape, "blocks_seg": voxel.shape}
        nnUNetDatasetBlosc2.save_case(array, voxel, {}, str(case), **sizes)
        return case.with_suffix(".b2nd").stat().st_size


if __name__ == "__main__":
    main()
