"""One pass over the images of a raw dataset: what the leak check keeps of each scan."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from nnunet_ssl.data.reading import read_file, reader_of
from nnunet_ssl.data.space import align, grid_of
from nnunet_ssl.errors import InputError
from nnunet_ssl.pools import Pool
from nnunet_ssl.preparation.signatures import Grid, Signature, common_grid, make_signature

if TYPE_CHECKING:
    from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

GRID_SAMPLE = 16  # scans whose sizes decide the grid of the signatures
SAMPLE = 500_000  # voxels whose grey levels stand for those of a channel


@dataclass(frozen=True)
class Scan:
    """One case of one folder. ``fault`` says why its images cannot be used; the rest is then empty."""

    role: str
    case: str
    shape: tuple[int, ...] = ()
    spacing: tuple[float, ...] = ()
    axes: np.ndarray | None = None  # (3, 3): in its columns the direction in space of each axis, as the network gets it
    bare: bool = False  # voxels of 1 mm in a row from the origin: what is left when a header was lost
    percentiles: np.ndarray | None = None  # (C, 101): 0 % to 100 %
    levels: np.ndarray | None = None  # (C,): how many different grey levels there are
    rim: np.ndarray | None = None  # (C,): how many percent of the voxels are darker than the rim of a slice
    digest: str = ""  # of the voxels of all channels
    signature: Signature | None = None  # of the first channel
    fault: str = ""


def read_scans(files: dict[tuple[str, str], list[Path]], dataset_json: dict, processes: int) -> list[Scan]:
    """All scans, in the order of ``files``: the channel files of each ``(role, case)``. Bad ones carry their fault.

    Raises ``InputError`` when nnU-Net has no reader for the dataset, a worker process is killed or memory is short.
    """
    reader = reader_of(dataset_json, (file for channels in files.values() for file in channels))
    work = [(f"{case} ({role})", (role, case, paths, reader)) for (role, case), paths in files.items()]
    sample = work[:: max(1, len(work) // GRID_SAMPLE)][:GRID_SAMPLE]
    with Pool(min(processes, len(work)), "and run the same command again.") as pool:
        sizes = [scan for scan in _found(pool.run(_read_scan, sample)).values() if not scan.fault]
        if sizes:
            grid = common_grid([scan.shape for scan in sizes], [scan.spacing for scan in sizes])
        else:  # none of the sample can be used; the others still need one grid
            grid = Grid((2.0,) * 3, (6,) * 3)
        results = pool.run(_read_scan, ((name, (*arguments, grid)) for name, arguments in work))
        scans = _found(tqdm(results, total=len(work), desc="Reading scans"))
    return _with_one_channel_count([scans[name] for name, _ in work])


def _found(results: Iterable[tuple[str, Scan | InputError]]) -> dict[str, Scan]:
    """The scans by name; a fault of a file is in its scan, so that an error is the machine's and is raised."""
    scans = {}
    for name, scan in results:
        if isinstance(scan, InputError):
            raise scan
        scans[name] = scan
    return scans


def _with_one_channel_count(scans: list[Scan]) -> list[Scan]:
    """The scans, with a fault where one has another number of channels than most (a color picture, a 4D image)."""
    counts = Counter(len(scan.percentiles) for scan in scans if not scan.fault)
    if len(counts) < 2:
        return scans
    usual = counts.most_common(1)[0][0]
    return [
        scan if scan.fault or (own := len(scan.percentiles)) == usual
        else Scan(scan.role, scan.case, fault=f"{own} channels in its files, {usual} in those of most cases")
        for scan in scans
    ]  # fmt: skip


def _read_scan(
    role: str, case: str, files: list[Path], reader: "type[BaseReaderWriter]", grid: Grid | None = None
) -> Scan:
    """Runs in a worker. Without a grid only shape and spacing are taken."""
    channels, spacing, digest, place = [], (), hashlib.sha256(), None
    for file in files:
        try:
            image, properties = read_file(reader, file, file.name)
            own = tuple(float(value) for value in properties["spacing"])
            stored = grid_of(image.shape[1:], properties)
            place, spacing = place or stored, spacing or own
            image, difference = align(image, stored, place, file.name, files[0].name)
            if difference.turned and role != "unlabeled":
                raise InputError(
                    f"{file.name} is stored with other axes than {files[0].name}, which nnU-Net stacks as they are"
                )
        except InputError as error:
            return Scan(role, case, fault=str(error))
        channels.append(image)
        if image.min() == image.max():
            return Scan(role, case, fault=f"{file.name} is empty: every voxel is {image.min():g}")
        digest.update(str(image.shape).encode())
        digest.update(np.ascontiguousarray(image, np.float32))
    first = channels[0][0]
    if grid is None:
        return Scan(role, case, first.shape, spacing)
    signature = make_signature(first, spacing, grid)
    greys = [_greys(channel) for channel in _cut_to_content(np.concatenate(channels))]
    percentiles, levels, rim = map(np.array, zip(*greys, strict=True))
    axes = place.steps / place.spacing
    bare = np.allclose(place.spacing, 1) and np.allclose(np.abs(axes).max(axis=0), 1) and np.allclose(place.origin, 0)
    return Scan(role, case, first.shape, spacing, axes, bare, percentiles, levels, rim, digest.hexdigest(), signature)


def _cut_to_content(image: np.ndarray) -> np.ndarray:
    """Cut to the box of the voxels that are not 0 in one of the channels, as nnU-Net does before it normalizes."""
    for axis in (1, 2, 3):
        content = np.flatnonzero(image.any(axis=tuple(other for other in range(4) if other != axis)))
        image = image.take(range(content[0], content[-1] + 1), axis)
    return image


def _greys(channel: np.ndarray) -> tuple[np.ndarray, int, float]:
    """Percentiles, number of grey levels and brightness of the rim of a channel ``(z, y, x)``, see :class:`Scan`."""
    flat = channel.reshape(-1)
    values = np.sort(flat[:: max(1, flat.size // SAMPLE)])
    rim = np.median(np.concatenate([channel[:, (0, -1)].ravel(), channel[:, :, (0, -1)].ravel()]))
    darker = (np.searchsorted(values, rim) + np.searchsorted(values, rim, "right")) / 2 / len(values)
    return np.percentile(values, np.arange(101)), 1 + np.count_nonzero(np.diff(values)), 100 * darker
