"""Every converter on files that SimpleITK takes without a word for something else."""

import shutil
from functools import partial

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ssl.conversion.writing import write_raw_dataset
from nnunet_ssl.dataset_conversion.acdc import acdc_conversion
from nnunet_ssl.dataset_conversion.amos import amos_conversion
from nnunet_ssl.dataset_conversion.la import la_conversion
from nnunet_ssl.dataset_conversion.lits import lits_conversion
from nnunet_ssl.dataset_conversion.msd import msd_conversion
from nnunet_ssl.dataset_conversion.pancreas import pancreas_conversion
from nnunet_ssl.dataset_conversion.synapse import synapse_conversion
from nnunet_ssl.errors import InputError

SOURCES = {
    "la": partial(la_conversion, labeled=1),
    "acdc": partial(acdc_conversion, labeled="ssl4mis-3"),
    "synapse": synapse_conversion,
    "amos": amos_conversion,
    "lits": lits_conversion,
    "prostate": partial(msd_conversion, labeled=2),
    "spleen": partial(msd_conversion, labeled=2),
    "pancreas": pancreas_conversion,
}


def with_hole(file, value):
    image = sitk.ReadImage(str(file))
    if image.GetPixelID() != sitk.sitkFloat32:
        image = sitk.Cast(image, sitk.sitkFloat32)
    image[[1] * image.GetDimension()] = value
    sitk.WriteImage(image, str(file))


@pytest.mark.slow
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", SOURCES)
def test_nan_in_images_and_labels_is_refused_and_named(name, value, request, tmp_path):
    source = shutil.copytree(request.getfixturevalue(name), tmp_path / "copy")
    cases = SOURCES[name](source).cases
    labeled = next(case for case in cases if case.part == "labeled")
    unlabeled = next(case for case in cases if case.part == "unlabeled")
    spoiled = [file for file in (labeled.label, *labeled.images, *unlabeled.images) if file.is_file()]
    assert len(spoiled) == (1 if name == "pancreas" else 3)  # its images are DICOM: integers
    for file in spoiled:
        with_hole(file, value)
    with pytest.raises(InputError) as caught:
        write_raw_dataset(SOURCES[name](source), 27, "Holes")
    for file in spoiled:
        assert f"{file} " in str(caught.value)
    assert not list((tmp_path / "nnUNet_raw").glob("*"))
