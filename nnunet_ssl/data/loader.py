"""The unlabeled stream and how it joins nnU-Net's: one worker pool, one batch with both."""

from __future__ import annotations

import os

import blosc2
import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from threadpoolctl import threadpool_limits

from nnunet_ssl.data.views import Views

STREAM = "unlabeled_"  # keys of the unlabeled views in a batch: unlabeled_weak, unlabeled_strong


class UnlabeledPool:
    """Preprocessed images by case id. It knows image files only: no segmentation, no class locations.

    Args:
        files: case id -> its preprocessed image, `<case>.b2nd`.
    """

    def __init__(self, files: dict[str, str]):
        self.files = files
        self.identifiers = list(files)
        blosc2.set_nthreads(1)
        self._mmap = {} if os.name == "nt" else {"mmap_mode": "r"}

    def load_image(self, case: str) -> blosc2.NDArray:
        """The image (channels, *spatial), read lazily.

        Raises:
            RuntimeError: the file is gone or damaged; names the case.
        """
        try:
            return blosc2.open(self.files[case], mode="r", dparams={"nthreads": 1}, **self._mmap)
        except (OSError, RuntimeError) as error:
            raise RuntimeError(
                f"unlabeled case {case}: {self.files[case]} cannot be read ({error}); "
                "delete it and run `nnunet_ssl preprocess` again."
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
                for view, patch in self.views(self._random_patch(case)).items():
                    key = STREAM + view
                    if key not in batch:
                        batch[key] = torch.empty((self.batch_size, *patch.shape), dtype=torch.float32)
                    batch[key][index] = patch
        return batch

    def _random_patch(self, case: str) -> torch.Tensor:
        image = self._data.load_image(case)
        lower, upper = self.get_bbox(image.shape[1:], False, None)
        try:
            patch = crop_and_pad_nd(image, [list(sides) for sides in zip(lower, upper, strict=True)], 0)
        except RuntimeError as error:
            raise RuntimeError(f"unlabeled case {case}: {self._data.files[case]} is damaged ({error})") from error
        patch = torch.from_numpy(patch).float()
        return patch[:, 0] if self.patch_size_was_2d else patch


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
