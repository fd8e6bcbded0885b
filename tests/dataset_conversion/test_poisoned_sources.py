"""Every converter on a source whose labels of unlabeled cases cannot be read."""

import shutil
from functools import partial
from pathlib import Path

import h5py
import pytest

from nnunet_ssl.conversion.writing import write_raw_dataset
from nnunet_ssl.dataset_conversion.acdc import acdc_conversion
from nnunet_ssl.dataset_conversion.amos import amos_conversion
from nnunet_ssl.dataset_conversion.la import la_conversion
from nnunet_ssl.dataset_conversion.lits import lits_conversion
from nnunet_ssl.dataset_conversion.msd import msd_conversion
from nnunet_ssl.dataset_conversion.pancreas import pancreas_conversion
from nnunet_ssl.dataset_conversion.synapse import synapse_conversion
from nnunet_ssl.errors import InputError

# the source, its converter, where its labels lie
SOURCES = {
    "la": (partial(la_conversion, labeled=1), "**/laendo.nrrd"),
    "la_h5": (partial(la_conversion, labeled=1), "**/mri_norm2.h5"),
    "acdc": (partial(acdc_conversion, labeled="ssl4mis-3"), "**/*_gt.nii.gz"),
    "acdc_h5": (partial(acdc_conversion, labeled="ssl4mis-3"), "**/patient*.h5"),
    "synapse": (synapse_conversion, "**/label*.nii.gz"),
    "amos": (amos_conversion, "**/labels*/amos_*.nii.gz"),
    "lits": (lits_conversion, "**/segmentation-*.nii"),
    "prostate": (partial(msd_conversion, labeled=2), "labelsTr/*.nii.gz"),
    "pancreas": (pancreas_conversion, "**/label*.nii.gz"),
}


def poison(file: Path) -> None:
    if file.suffix == ".h5":  # image and label in one file
        with h5py.File(file, "r+") as content:
            if "label" in content:
                del content["label"]
    else:
        file.write_bytes(b"not to be opened")


@pytest.mark.slow
@pytest.mark.parametrize("name", SOURCES)
def test_labels_of_unlabeled_cases_are_never_read(name, request, tmp_path):
    convert, pattern = SOURCES[name]
    source = shutil.copytree(request.getfixturevalue(name), tmp_path / "copy")
    cases = {case.id: case for case in convert(source).cases}
    used = {case.label for case in cases.values() if case.label}
    # a frame that lies in slices is known by the first of them
    used |= {slice for file in used for slice in file.parent.glob(f"{file.name.split('_slice_')[0]}_slice_*.h5")}
    unused = [file for file in source.glob(pattern) if file not in used]
    assert len(unused) >= sum(case.part == "unlabeled" for case in cases.values()) > 0
    for file in unused:
        poison(file)
    folder, written = write_raw_dataset(convert(source), 27, "Poisoned")
    assert written
    labels = {file.name.removesuffix(".nii.gz") for file in folder.glob("labels*/*")}
    assert labels == {case.id for case in cases.values() if case.label}

    # the guard: the same poison in a label that is needed
    labeled = next(case for case in cases.values() if case.part == "labeled")
    poison(labeled.label)
    with pytest.raises(InputError, match=labeled.label.name):
        write_raw_dataset(convert(source), 28, "Refused")
