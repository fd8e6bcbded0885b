"""Folders of label files, as the evaluation reads them."""

import json

import numpy as np
import SimpleITK as sitk


def write(folder, name, array, spacing=(1, 1, 1)):
    folder.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array.astype(np.uint8))
    image.SetSpacing([float(s) for s in spacing[::-1]])
    sitk.WriteImage(image, str(folder / name))


def write_dataset_json(folder, labels, ending=".nii.gz"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps({"labels": labels, "file_ending": ending}), encoding="utf-8")
