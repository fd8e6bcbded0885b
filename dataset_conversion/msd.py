"""The tasks of the Medical Segmentation Decathlon (Antonelli et al., Nature Communications 2022).

Read is ``TaskNN_Name`` as released: ``imagesTr``, ``labelsTr``, ``imagesTs`` and ``dataset.json``. The result is that
of ``nnUNetv2_convert_MSD_dataset``, whose function splits the channels, without the labels of the unlabeled cases.

Headers: trusted, and a label must stand where its image does.
"""

import re
from pathlib import Path
from tempfile import TemporaryDirectory

import SimpleITK as sitk
from nnunetv2.dataset_conversion.convert_MSD_dataset import split_4d_nifti

from nnunet_ssl.data.conversion import Conversion, pair_cases
from nnunet_ssl.data.protocols import Labeled, Lists, choose
from nnunet_ssl.data.sources import DAMAGED, find_files, read_volume, require_whole
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import check_case_ids, is_plain_name, read_json


def msd_conversion(source: Path, labeled: Labeled = None) -> Conversion:
    """Finds the cases of a task.

    Args:
        source: the folder of the task.
        labeled: which training cases are labeled, in alphabetical order; None for the first 10%.

    Raises:
        InputError: ``source`` is no such folder, or cases of its ``dataset.json`` are missing.
    """
    file = source / "dataset.json"
    task = read_json(file, "SOURCE is the folder of a Decathlon task, TaskNN_Name")
    try:
        channels = tuple(task["modality"][str(channel)] for channel in range(len(task["modality"])))
        labels = {name: int(value) for value, name in task["labels"].items()}
        train = sorted(_case_id(entry["image"]) for entry in task["training"])
        test = sorted(_case_id(entry) for entry in task["test"])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise InputError(f"{file} is not that of a Decathlon task ({error!r:.100}).") from error
    check_case_ids([*train, *test], file)
    named = channels and labels and all(map(is_plain_name, (*channels, *labels)))
    if not named or not all(0 <= value < 256 for value in labels.values()):
        raise InputError(f"{file}: modalities and labels must have plain names, and labels values from 0 to 255.")
    images = find_files(source, r"images(Tr|Ts)/(?P<id>[^/_][^/]*)\.nii\.gz")
    choice = choose("msd", labeled, default="10%", own=Lists(train, test, origin="dataset.json"))
    choice.require(images, source)
    name = re.fullmatch(r"Task\d+_(.+)", source.resolve().name)
    return Conversion(
        converter="msd",
        channels=channels,
        labels=labels,
        cases=pair_cases(choice.parts, images, find_files(source, r"labelsTr/(?P<id>[^/_][^/]*)\.nii\.gz")),
        read_image=read_volume if len(channels) == 1 else read_channels,
        read_label=read_volume,
        source={"path": str(source), "layout": "Decathlon", "task": source.resolve().name},
        protocol={**choice.record, "test": "imagesTs of the task, without labels"},
        notes=[*choice.notes, *choice.unused(images)],
        name=name[1] if name else "MSD",
    )


def read_channels(path: Path) -> list[sitk.Image]:
    """The channels of a 4D image, split by nnU-Net's converter."""
    require_whole(path)  # refuses a truncated file, which nnU-Net's converter does not
    with TemporaryDirectory() as folder:
        try:
            split_4d_nifti(str(path), folder)
        except RuntimeError as error:
            raise InputError(f"{path} {DAMAGED} ({str(error).splitlines()[0][:60]})") from error
        return [read_volume(file) for file in sorted(Path(folder).iterdir())]


def _case_id(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".nii.gz")
