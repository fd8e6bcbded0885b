"""The unlabeled stream and how it joins nnU-Net's: one worker pool, one batch with both."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import blosc2
import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from threadpoolctl import threadpool_limits

from nnunet_ssl.data.raw import listed
from nnunet_ssl.data.splits import FILE as SPLITS
from nnunet_ssl.data.splits import check_fold, read_splits, unlabeled_of_fold
from nnunet_ssl.data.unlabeled import read_cases, unlabeled_folder
from nnunet_ssl.data.views import Views
from nnunet_ssl.errors import InputError

if TYPE_CHECKING:
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

STREAM = "unlabeled_"  # keys of the unlabeled views in a batch: unlabeled_weak, unlabeled_strong


def unlabeled_files(
    base: str | Path, plans_manager: PlansManager, configuration: str, fold: int | str
) -> tuple[dict[str, str], dict[str, str]]:
    """Preprocessed images that a fold sees without a label, case id -> file: of imagesUnlabeled, and with hidden label.

    Args:
        base: the dataset's folder in `nnUNet_preprocessed`.

    Raises:
        InputError: there are none, or folds or folder are not in order.
    """
    base, manager = Path(base), plans_manager.get_configuration(configuration)
    hidden = []
    if fold != "all" and (base / SPLITS).is_file():
        splits = read_splits(base / SPLITS)
        if int(fold) < len(splits):
            check_fold(splits[int(fold)], base / SPLITS)
        hidden = unlabeled_of_fold(splits, fold)
    folder = unlabeled_folder(base, manager)
    cases = []
    if folder.is_dir() or not hidden:
        cases = read_cases(folder, plans_manager, configuration, plans_manager.dataset_name)
    nnunets = base / manager.data_identifier
    if missing := [case for case in hidden if not (nnunets / f"{case}.b2nd").is_file()]:
        raise InputError(f"{base / SPLITS} hides the label of {listed(missing, 5, ', ')}: not in {nnunets}.")
    return {c: str(folder / f"{c}.b2nd") for c in cases}, {c: str(nnunets / f"{c}.b2nd") for c in hidden}


class UnlabeledPool:
    """Preprocessed images by case id. It knows image files only: no segmentation, no class locations.

    Args:
        files: case id -> its preprocessed image, `<case>.b2nd`.
        previous_stage: in the second stage of a cascade, the folder of the first stage's predictions, `<case>.b2nd`.
    """

    def __init__(self, files: dict[str, str], previous_stage: Path | None = None):
        self.files = files
        self.previous_stage = previous_stage
        self.identifiers = list(files)
        blosc2.set_nthreads(1)
        self._mmap = {} if os.name == "nt" else {"mmap_mode": "r"}

    def load_image(self, case: str) -> blosc2.NDArray:
        """The image (channels, *spatial), read lazily.

        Raises:
            RuntimeError: the file is gone or damaged; names the case.
        """
        return self._open(case, self.files[case], "nnunet_ssl preprocess")

    def load_prediction(self, case: str, shape: tuple[int, ...]) -> blosc2.NDArray:
        """The first stage's segmentation (*spatial), read lazily; `shape` is that of the image.

        Raises:
            RuntimeError: the file is gone or damaged, or of another shape; names the case.
        """
        file = str(self.previous_stage / f"{case}.b2nd")
        prediction = self._open(case, file, "nnunet_ssl predict_next_stage")
        if prediction.shape != shape:
            raise RuntimeError(
                f"unlabeled case {case}: {file} has the shape {prediction.shape} and its image {shape}; "
                "run `nnunet_ssl predict_next_stage` again."
            )
        return prediction

    def _open(self, case: str, file: str, command: str) -> blosc2.NDArray:
        try:
            return blosc2.open(file, mode="r", dparams={"nthreads": 1}, **self._mmap)
        except (OSError, RuntimeError) as error:
            raise RuntimeError(
                f"unlabeled case {case}: {file} cannot be read ({error}); delete it and run `{command}` again."
            ) from error


class UnlabeledLoader(nnUNetDataLoader):
    """nnU-Net's loader for images without labels: random patches, each in the aligned views asked for."""

    def __init__(self, pool: UnlabeledPool, batch_size: int, like: nnUNetDataLoader, views: Views, label_manager):
        dimensions = slice(1, None) if like.patch_size_was_2d else slice(None)
        super().__init__(
            pool, batch_size, like.patch_size[dimensions], like.final_patch_size[dimensions], label_manager
        )
        self.indices = np.array(pool.identifiers)  # drawing from a list would convert it anew for every batch
        self.has_ignore = False  # there is nothing annotated to sample from
        self.views = views

    def generate_train_batch(self) -> dict[str, torch.Tensor]:
        """{"unlabeled_<view>": (B, channels, *patch)} of patches drawn uniformly over cases and positions."""
        batch: dict[str, torch.Tensor] = {}
        with torch.no_grad(), threadpool_limits(limits=1, user_api=None):
            for index, case in enumerate(self.get_indices()):
                for view, patch in self.views(*self._random_patch(case)).items():
                    key = STREAM + view
                    if key not in batch:
                        batch[key] = torch.empty((self.batch_size, *patch.shape), dtype=torch.float32)
                    batch[key][index] = patch
        return batch

    def _random_patch(self, case: str) -> list[torch.Tensor]:
        """The image (channels, *patch); in a cascade also the first stage's segmentation (1, *patch) at the same place.

        Where the patch reaches beyond the case it is padded as nnU-Net does: 0, and -1 in the segmentation.
        """
        image = self._data.load_image(case)
        lower, upper = self.get_bbox(image.shape[1:], False, None)
        box = [list(sides) for sides in zip(lower, upper, strict=True)]
        cascaded = self._data.previous_stage is not None
        prediction = self._data.load_prediction(case, image.shape[1:]) if cascaded else None
        try:
            patches = [torch.from_numpy(crop_and_pad_nd(image, box, 0)).float()]
            if cascaded:
                segmentation = crop_and_pad_nd(prediction, box, -1, cast_cropped_to=np.int16)
                patches.append(torch.from_numpy(segmentation).to(torch.int16)[None])
        except RuntimeError as error:
            files = self._data.files[case] + (f" or {self._data.previous_stage}/{case}.b2nd" if cascaded else "")
            raise RuntimeError(f"unlabeled case {case}: {files} is damaged ({error})") from error
        return [patch[:, 0] for patch in patches] if self.patch_size_was_2d else patches


class TwoStreamLoader:
    """A labeled batch of nnU-Net's own loader and an unlabeled batch, in one dictionary."""

    def __init__(self, labeled: nnUNetDataLoader, unlabeled: UnlabeledLoader):
        self.labeled = labeled
        self.unlabeled = unlabeled

    def __iter__(self):
        return self

    def __next__(self) -> dict:
        return next(self.labeled) | next(self.unlabeled)

    def set_thread_id(self, thread_id: int) -> None:
        """Asked for by batchgenerators' workers."""
        self.labeled.set_thread_id(thread_id)
        self.unlabeled.set_thread_id(thread_id)
