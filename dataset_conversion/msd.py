"""The tasks of the Medical Segmentation Decathlon (Antonelli et al., Nature Communications 2022).

Read is ``TaskNN_Name`` as released: ``imagesTr``, ``labelsTr``, ``imagesTs`` and ``dataset.json``. The result is that
of ``nnUNetv2_convert_MSD_dataset``, whose function splits the channels, without the labels of the unlabeled cases.

Headers: trusted, and a label must stand where its image does.
"""

import math
import re
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import SimpleITK as sitk
from nnunetv2.dataset_conversion.convert_MSD_dataset import split_4d_nifti

from nnunet_ssl.conversion.cases import Conversion, pair_cases
from nnunet_ssl.conversion.protocols import Labeled, Lists, choose
from nnunet_ssl.conversion.sources import REPAIR, find_files, read_volume, reason_of, require_whole, with_geometry
from nnunet_ssl.data.headers import nan_voxels
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import check_case_ids, is_plain_name, read_json


def msd_conversion(source: Path, labeled: Labeled = None, fill_nan: float | None = None) -> Conversion:
    """Finds the cases of a task.

    Args:
        source: the folder of the task.
        labeled: which training cases are labeled, in alphabetical order; None for the first 10%.
        fill_nan: what is written for NaN in images; None to refuse such images.

    Raises:
        InputError: ``source`` is no such folder, cases of its ``dataset.json`` are missing, or ``fill_nan`` is no
            finite number.
    """
    if fill_nan is not None and not math.isfinite(fill_nan):
        raise InputError(f"--fill-nan {fill_nan}: give the number that images shall hold in place of NaN.")
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
    choice = choice.present(images, source)
    name = re.fullmatch(r"Task\d+_(.+)", source.resolve().name)
    return Conversion(
        converter="msd",
        channels=channels,
        labels=labels,
        cases=pair_cases(choice.parts, images, find_files(source, r"labelsTr/(?P<id>[^/_][^/]*)\.nii\.gz")),
        read_image=partial(read_task_image, channels=len(channels), fill_nan=fill_nan)
        if len(channels) > 1 or fill_nan is not None
        else read_volume,
        read_label=read_volume,
        source={"path": str(source), "layout": "Decathlon", "task": source.resolve().name},
        protocol={
            **choice.record,
            "test": "imagesTs of the task, without labels",
            **({} if fill_nan is None else {"NaN in images": f"written as {fill_nan:g}"}),
        },
        notes=[*choice.notes, *choice.unused(images)],
        name=name[1] if name else "MSD",
    )


def read_task_image(path: Path, channels: int, fill_nan: float | None) -> sitk.Image | list[sitk.Image]:
    """An image of the task: a volume, or those that nnU-Net's converter makes of a 4D image, with NaN replaced."""
    if channels == 1:
        volumes = [read_volume(path, nan_is_fine=fill_nan is not None)]
    else:
        require_whole(path, nan_is_fine=fill_nan is not None)  # nnU-Net's converter does not look at it
        with TemporaryDirectory() as folder:
            try:
                split_4d_nifti(str(path), folder)
            except RuntimeError as error:
                raise InputError(f"{path} cannot be read ({reason_of(error)}); replace it") from error
            volumes = [read_volume(file) for file in sorted(Path(folder).iterdir())]
    if fill_nan is not None and (holes := nan_voxels(path)) is not None:
        holes = holes.reshape(len(volumes), *volumes[0].GetSize()[::-1])
        volumes = [_filled(volume, hole, fill_nan) for volume, hole in zip(volumes, holes, strict=True)]
    return volumes


def _filled(volume: sitk.Image, holes: np.ndarray, value: float) -> sitk.Image:
    voxels = sitk.GetArrayFromImage(volume)  # where SimpleITK has read 0 for NaN
    filled = with_geometry(np.where(holes, np.asarray(value, voxels.dtype), voxels), volume)
    if holes.any():
        filled.SetMetaData(REPAIR, f"NaN in images replaced by {value:g}: --fill-nan says so")
    return filled


def _case_id(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".nii.gz")
