"""The unlabeled stream and how it joins nnU-Net's: one worker pool, one batch with both."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from nnunet_ssl.data.views import Views, only_cut
from nnunet_ssl.errors import InputError

if TYPE_CHECKING:
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

STREAM = "unlabeled_"  # keys of the unlabeled views in a batch: unlabeled_weak, unlabeled_strong


def unlabeled_files(
    base: str | Path, plans_manager: PlansManager, configuration: str, fold: int | str, partly: Collection[str] = ()
) -> tuple[dict[str, str], dict[str, str]]:
    """Preprocessed images that a fold sees without a label, case id -> file: of imagesUnlabeled, and with hidden label.

    Args:
        base: the dataset's folder in `nnUNet_preprocessed`.
        partly: labeled cases whose images are unlabeled ones, too, so that there need be no others.

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
    if folder.is_dir() or not (hidden or partly):
        cases = read_cases(folder, plans_manager, configuration, plans_manager.dataset_name)
    nnunets = base / manager.data_identifier
    if missing := [case for case in hidden if not (nnunets / f"{case}.b2nd").is_file()]:
        raise InputError(f"{base / SPLITS} hides the label of {listed(missing, 5, ', ')}: not in {nnunets}.")
    return {c: str(folder / f"{c}.b2nd") for c in cases}, {c: str(nnunets / f"{c}.b2nd") for c in hidden}


def open_array(file: str) -> blosc2.NDArray:
    """A preprocessed file, of which only what is cut is read, by the thread that asks.

    Raises:
        OSError, RuntimeError: it is gone or damaged.
    """
    return blosc2.open(file, mode="r", dparams={"nthreads": 1}, **({} if os.name == "nt" else {"mmap_mode": "r"}))


class UnlabeledPool:
    """Preprocessed images by case id. It knows image files only: no segmentation, no class locations.

    Args:
        files: case id -> its preprocessed image, `<case>.b2nd`.
        previous_stage: in the second stage of a cascade, the folder of the first stage's predictions, `<case>.b2nd`.
        labels: folder of pseudo-labels, `<case>.b2nd`, if there are any.
    """

    def __init__(self, files: dict[str, str], previous_stage: Path | None = None, labels: Path | None = None):
        self.files = files
        self.previous_stage = previous_stage
        self.labels = labels
        self.identifiers = list(files)
        blosc2.set_nthreads(1)

    def load_image(self, case: str) -> blosc2.NDArray:
        """The image (channels, *spatial), read lazily; float16 if it was preprocessed with `--half`.

        Raises:
            InputError: the file is gone or damaged; names the case.
        """
        return self._open(case, self.files[case], "nnunet_ssl preprocess")

    def read_image(self, case: str) -> np.ndarray:
        """All of the image, float32 (channels, *spatial), however it is stored.

        Raises:
            InputError: as `load_image`.
            RuntimeError: the file is damaged within.
        """
        return np.ascontiguousarray(self.load_image(case)[:], dtype=np.float32)

    def load_prediction(self, case: str, shape: tuple[int, ...]) -> blosc2.NDArray:
        """The first stage's segmentation (*spatial), read lazily; `shape` is that of the image.

        Raises:
            InputError: the file is gone or damaged, or of another shape; names the case.
        """
        return self._load_map(case, self.previous_stage, shape, "nnunet_ssl predict_next_stage")

    def load_label(self, case: str, shape: tuple[int, ...]) -> blosc2.NDArray:
        """The pseudo-label (*spatial), read lazily; as `load_prediction`."""
        return self._load_map(case, self.labels, shape, "nnUNetv2_train")

    def _load_map(self, case: str, folder: Path, shape: tuple[int, ...], command: str) -> blosc2.NDArray:
        file = str(folder / f"{case}.b2nd")
        segmentation = self._open(case, file, command)
        if segmentation.shape != shape:
            raise InputError(
                f"unlabeled case {case}: {file} has the shape {segmentation.shape} and its image {shape}; "
                f"run `{command}` again."
            )
        return segmentation

    def _open(self, case: str, file: str, command: str) -> blosc2.NDArray:
        try:
            return open_array(file)
        except (OSError, RuntimeError) as error:
            reason = f"cannot be read ({error}); delete it and" if os.path.exists(file) else "is gone; bring it back or"
            raise InputError(f"unlabeled case {case}: {file} {reason} run `{command}` again.") from error


class UnlabeledLoader(nnUNetDataLoader):
    """nnU-Net's loader for images without labels: random patches, each in the aligned views asked for."""

    def __init__(self, pool: UnlabeledPool, batch_size: int, like: nnUNetDataLoader, views: Views, label_manager):
        self._spatial = slice(1, None) if like.patch_size_was_2d else slice(None)
        super().__init__(
            pool, batch_size, like.patch_size[self._spatial], like.final_patch_size[self._spatial], label_manager
        )
        self.indices = np.array(pool.identifiers)  # drawing from a list would convert it anew for every batch
        self.has_ignore = False  # there is nothing annotated to sample from
        self.views = views

    def generate_train_batch(self) -> dict[str, torch.Tensor | list[torch.Tensor] | list[str]]:
        """{"unlabeled_<view>": (B, channels, *patch)} of patches drawn uniformly over cases and positions.

        "unlabeled_cases" are the ids of the cases that they come from. The view "target" has nnU-Net's form: labels or
        regions, a list over scales with deep supervision.
        """
        with torch.no_grad(), threadpool_limits(limits=1, user_api=None):
            cases = [str(case) for case in self.get_indices()]
            patches = [self.views(**self._random_patch(case)) for case in cases]
        views = {STREAM + view: _stacked([patch[view] for patch in patches]) for view in patches[0]}
        return views | {STREAM + "cases": cases}

    def _random_patch(self, case: str) -> dict[str, Any]:
        """The "image" (channels, *patch), at the same place what else there is, (1, *patch) each, and what was "drawn".

        In a cascade that is the first stage's "prediction"; and the pseudo-"label". Where the patch reaches beyond the
        case it is padded as nnU-Net does: 0, and -1 in segmentations. Of a patch that is only cut the middle is read.
        """
        pool = self._data
        image = pool.load_image(case)
        shape = image.shape[1:]
        lower, upper = self.get_bbox(shape, False, None)
        drawn = self.views.draw(tuple(self.patch_size[self._spatial]))
        if only_cut(drawn):
            sizes = zip(lower, self.patch_size, self.final_patch_size, strict=True)
            lower = [low + size // 2 - kept // 2 for low, size, kept in sizes]
            upper = [low + kept for low, kept in zip(lower, self.final_patch_size, strict=True)]
        box = [list(sides) for sides in zip(lower, upper, strict=True)]
        maps = {} if pool.previous_stage is None else {"prediction": pool.load_prediction(case, shape)}
        maps |= {} if pool.labels is None else {"label": pool.load_label(case, shape)}
        try:
            patches = {"image": torch.from_numpy(crop_and_pad_nd(image, box, 0)).float()}
            for name, segmentation in maps.items():
                cropped = crop_and_pad_nd(segmentation, box, -1, cast_cropped_to=np.int16)
                patches[name] = torch.from_numpy(cropped).to(torch.int16)[None]
        except RuntimeError as error:
            folders = [folder for folder in (pool.previous_stage, pool.labels) if folder is not None]
            files = " or ".join([pool.files[case], *(f"{folder}/{case}.b2nd" for folder in folders)])
            raise InputError(
                f"unlabeled case {case}: {files} is damaged ({error}); delete it and make it again."
            ) from error
        cut = {name: patch[:, 0] if self.patch_size_was_2d else patch for name, patch in patches.items()}
        return cut | {"drawn": drawn}


def _stacked(patches: list[torch.Tensor] | list[list[torch.Tensor]]) -> torch.Tensor | list[torch.Tensor]:
    if isinstance(patches[0], list):
        return [torch.stack(scale) for scale in zip(*patches, strict=True)]
    return torch.stack(patches)


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
