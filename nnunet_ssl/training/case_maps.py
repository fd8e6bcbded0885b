"""Maps that travel with the patches of labeled cases: made once at the start of a training, read a patch at a time.

They lie in the fold's folder, float32 (M, *spatial) at the resolution of the preprocessed images::

    fold_0/case_maps/CASE.b2nd

In a worker they are further channels of the image as long as nnU-Net cuts the patch. Its transforms then get them as
their `regression_target`: moved as the image is, with linear interpolation, and left alone by changes of intensity.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import blosc2
import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from torch import Tensor
from torch import distributed as dist

from nnunet_ssl.data.loader import open_array
from nnunet_ssl.distributed import world_size
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import writing

if TYPE_CHECKING:
    from nnunet_ssl.training.trainer import SemiSupervisedTrainer

FOLDER = "case_maps"


def make_maps(trainer: SemiSupervisedTrainer) -> None:
    """Writes the maps of all labeled training cases, those of an earlier start go; each rank makes its share.

    Raises:
        ValueError: a method's maps have another shape than their case, or values that are not finite.
        InputError: the disk is full or the folder cannot be written.
    """
    folder = Path(trainer.output_folder) / FOLDER
    if trainer.local_rank == 0:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    if trainer.is_ddp:
        dist.barrier()
    dataset, _ = trainer.get_tr_and_val_datasets()
    mine = sorted(dataset.identifiers)[trainer.local_rank :: world_size()]
    trainer.print_to_log_file(f"maps of {len(dataset.identifiers)} labeled cases in {folder}")
    for case in mine:
        image, segmentation, _, properties = dataset.load_case(case)
        spacing = tuple(trainer.configuration_manager.spacing)
        if len(spacing) < segmentation.ndim - 1:  # a 2D network's slices are as far apart as in the scan
            spacing = (properties["spacing"][trainer.plans_manager.transpose_forward[0]], *spacing)
        made = trainer.method.case_maps(case, np.array(segmentation[0]), spacing)
        made = np.ascontiguousarray(made, dtype=np.float32)
        if made.ndim != image.ndim or made.shape[1:] != image.shape[1:] or not len(made):
            raise ValueError(f"{case}: its maps have the shape {made.shape}, and not (M, *{image.shape[1:]}).")
        if not np.isfinite(made).all():
            raise ValueError(f"{case}: its maps hold NaN or infinity, which interpolation would spread.")
        _write(made, image, folder, case)
    if trainer.is_ddp:
        dist.barrier()


def _write(maps: np.ndarray, image: blosc2.NDArray, folder: Path, case: str) -> None:
    """In blocks like the image's, which suit patches."""
    file = folder / f"{case}.b2nd"
    parts = {name: (len(maps), *getattr(image, name)[1:]) for name in ("chunks", "blocks")}
    try:
        with writing(file):
            blosc2.asarray(maps, urlpath=str(file), mode="w", **parts)
    except OSError as error:
        raise InputError(
            f"{case}: its maps cannot be written to {folder} ({error.strerror}). Make room or give the right to write."
        ) from error


def join_maps(loader: nnUNetDataLoader, folder: Path) -> None:
    """Has nnU-Net's loader give images with the maps of a folder as their last channels.

    Raises:
        InputError: maps are gone or damaged.
        ValueError: cases have another number of maps.
    """
    dataset = CasesWithMaps(loader._data, folder)
    numbers = {case: len(dataset.load_maps(case)) for case in dataset.identifiers}
    first, number = next(iter(numbers.items()))
    if other := [case for case in numbers if numbers[case] != number]:
        raise ValueError(
            f"{first} has {number} map(s) and {other[0]} {numbers[other[0]]}: all cases must have as many."
        )
    loader._data = dataset
    loader.transforms = MapsAlong(loader.transforms, number)


class CasesWithMaps:
    """nnU-Net's cases, the maps of each as further channels of its image, read lazily."""

    def __init__(self, dataset: nnUNetBaseDataset, folder: Path):
        self.dataset = dataset
        self.folder = folder
        self.identifiers = dataset.identifiers

    def load_case(self, case: str) -> tuple[Any, ...]:
        """As nnU-Net's; the image is (channels + M, *spatial)."""
        image, *others = self.dataset.load_case(case)
        return Stacked(image, self.load_maps(case)), *others

    def load_maps(self, case: str) -> blosc2.NDArray:
        """(M, *spatial).

        Raises:
            InputError: the file is gone or damaged.
        """
        file = str(self.folder / f"{case}.b2nd")
        try:
            return open_array(file)
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"labeled case {case}: {file} is gone or cannot be read ({error}); --c makes all maps anew."
            ) from error


class Stacked:
    """Arrays (channels, *spatial) of one extent, one after the other along the channels; only what is cut is read."""

    def __init__(self, *arrays: blosc2.NDArray | np.ndarray):
        self.arrays = arrays
        self.shape = (sum(len(array) for array in arrays), *arrays[0].shape[1:])

    def __getitem__(self, place: tuple[slice, ...]) -> np.ndarray:
        """A place with all channels, float32."""
        return np.concatenate([np.asarray(array[place], dtype=np.float32) for array in self.arrays])


class MapsAlong(BasicTransform):
    """nnU-Net's transforms of images whose last channels are maps: these come out last, too."""

    def __init__(self, transforms: BasicTransform, number: int):
        super().__init__()
        self.transforms = transforms
        self.number = number

    def __call__(self, image: Tensor, segmentation: Tensor) -> dict[str, Any]:
        """The transformed "image" (channels + M, *spatial) and "segmentation"; nnU-Net's own draws are as without."""
        image, maps = image[: -self.number], image[-self.number :]
        sample = self.transforms(image=image, regression_target=maps, segmentation=segmentation)
        return {
            "image": torch.cat((sample["image"], sample["regression_target"])),
            "segmentation": sample["segmentation"],
        }
