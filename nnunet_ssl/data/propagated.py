"""Labels of two orthogonal slices, carried through their scan: what `nnunet_ssl propagate` leaves for training.

They lie in a sibling of nnU-Net's folder, on the training grid::

    nnUNetPlans_3d_fullres_propagated/
        CASE.b2nd    int16 (2, *spatial): labels carried along the normal of the first plane, and of the second
        CASE.png     some of the slices, to be looked at

The file's metadata name the planes on this grid and what the volumes were made from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import blosc2
import numpy as np

from nnunet_ssl.errors import InputError

META = "nnunet_ssl"
FORMAT = 2  # raised, too, when labels are carried in another way


def propagated_folder(labeled_folder: str | Path) -> Path:
    """Beside the folder of the preprocessed labeled cases."""
    folder = Path(labeled_folder)
    return folder.with_name(f"{folder.name}_propagated")


def read_meta(file: Path) -> dict[str, Any] | None:
    """What the volumes were made from; None where there is no such file, or a damaged one."""
    try:
        array = blosc2.open(str(file), mode="r")  # must outlive its metadata
        meta = array.schunk.vlmeta[META]
    except (OSError, RuntimeError, KeyError):
        return None
    return meta if isinstance(meta, dict) and meta.get("format") == FORMAT else None


def read_maps(labeled_folder: str | Path, case: str, shape: tuple[int, ...]) -> np.ndarray:
    """Masks of the K foreground channels in either volume, voxels to either plane, and ones: (2 K + 3, *spatial).

    Args:
        shape: of the preprocessed case.

    Raises:
        InputError: the case was not propagated, or not to this shape.
    """
    file = propagated_folder(labeled_folder) / f"{case}.b2nd"
    if (meta := read_meta(file)) is None:
        raise InputError(
            f"case {case}: it has ignored voxels and no propagated labels in {file.parent}: run "
            "`nnunet_ssl propagate`, which takes cases annotated in two orthogonal slices; leave others out."
        )
    volumes = blosc2.open(str(file), mode="r")[:]
    if volumes.shape != (2, *shape):
        raise InputError(
            f"case {case}: {file} was made before the case was preprocessed anew: run `nnunet_ssl propagate`."
        )
    masks = [np.isin(volume, labels) for volume in volumes for labels in meta["channels"]]
    distances = [np.abs(np.indices(shape, sparse=True)[axis] - index) for axis, index in meta["planes"]]
    return np.stack([np.broadcast_to(each, shape).astype(np.float32) for each in (*masks, *distances, np.ones(shape))])
