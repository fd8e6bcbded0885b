"""A planned dataset of two channels (the fixture `planned`): its cases, and what preprocessing makes of them."""

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ssl.data.unlabeled import read_cases
from nnunet_ssl.errors import InputError
from nnunet_ssl.preparation.preprocessing import preprocess_dataset

NAME = "Dataset005_Tiny"
LABELED = [f"lab_{i}" for i in range(4)]
UNLABELED = [f"un_{i}" for i in range(6)]  # un_0 ... un_3 are the images of lab_0 ... lab_3


def make_image(seed, size=(20, 24, 22), spacing=(1.0, 1.1, 2.0)):
    rng = np.random.default_rng(seed)
    voxels = np.zeros(size, np.float32)
    voxels[2:-1, 3:, 1:-2] = rng.normal(100, 20, voxels[2:-1, 3:, 1:-2].shape)  # a border of zeros to be cropped
    return with_geometry(voxels, spacing)


def with_geometry(voxels, spacing=(1.0, 1.1, 2.0), origin=(3.0, -2.0, 7.0)):
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    return image


def run(dataset):
    preprocess_dataset(5, ["3d_fullres"])
    return read_cases(dataset.out, dataset.plans, "3d_fullres", 5)


def refusal(*args):
    with pytest.raises(InputError) as caught:
        preprocess_dataset(*args)
    return str(caught.value)


def stamps(folder):
    return {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}


def names(folder):
    return sorted(file.name for file in folder.iterdir())


WHOLE = sorted([f"{case}.{ending}" for case in UNLABELED for ending in ("b2nd", "pkl")] + ["unlabeled.json"])
