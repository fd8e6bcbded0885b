"""A pool of float16 images, as `nnunet_ssl preprocess --half` stores them, for `accuracy.py --half`."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import blosc2
import numpy as np


def store_half(preprocessed: Path, half: Path, pool: Collection[str]) -> None:
    """Makes a folder with all that another of `nnUNet_preprocessed` has, but float16 images of some cases.

    What is there already is kept: the same call goes on where it was cut off.

    Args:
        pool: the cases whose labels the fold hides; the images of all others stay as nnU-Net stores them.
    """
    half.mkdir(parents=True, exist_ok=True)
    for file in preprocessed.rglob("*"):
        place = half / file.relative_to(preprocessed)
        if file.is_dir():
            place.mkdir(exist_ok=True)
        elif place.exists():
            continue
        elif file.suffix == ".b2nd" and file.stem in pool:
            image, partial = blosc2.open(str(file), mode="r"), place.with_suffix(".partial.b2nd")
            array, cut = image[:].astype(np.float16), {"chunks": image.chunks, "blocks": image.blocks}
            partial.unlink(missing_ok=True)
            blosc2.asarray(array, urlpath=str(partial), **cut)
            partial.rename(place)
        else:
            os.symlink(file, place)
