"""Near-duplicate scans: a small signature per scan, and the pairs of scans whose signatures agree.

A signature is the scan on a coarse grid in mm, grey levels equalized, band-passed and brought to unit local contrast,
so that a shift, a crop, another resolution and any monotone change of the grey levels hardly change it, while the
coarse likeness that all scans of one body part share is gone. Around its strongest points it is sampled as descriptors.
Every descriptor nominates the one scan that holds the most similar descriptor and, by the two positions, a shift; the
score of a pair is the best correlation over the overlap at its nominated shifts, refined. Nominations grow linearly
with the number of scans; the search for them is one blocked matrix product, quadratic with a very small constant.

Not found: mirrored, rotated or warped copies, and shifted or cropped ones whose spacing was changed as well.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

# Cells of the coarse grid for the median scan: 128 kB per scan, 1.6 mm for a heart MRI, 8 mm for an abdominal CT.
CELLS = 2**17
# A scan far larger than the median one is cut to this many times CELLS around its center.
LARGEST = 8
POINTS = 32
SAMPLES = 96
LEVELS = 40  # of a signature's value 1 in int8: clips at about 3
BORDER = 2  # cells of the overlap's rim that a cut or a filling just outside it has changed
# Score from which a pair is one scan. Measured on the 100 scans of LA: 0.999 for the scan that is there twice, 0.854
# for the next pair (by the look of it one patient scanned again); between patients of ACDC at most 0.31.
SAME_SCAN = 0.92
# Overlap of a pair, as a fraction of the smaller scan. A shared part below it does not make two scans the same.
OVERLAP = 0.4
PROMISING = 0.4  # correlation at a nominated shift from which it is worth refining the shift


@dataclass(frozen=True)
class Grid:
    """The coarse grid that all scans of a dataset share: cell size in mm and reach of a descriptor in cells."""

    cell: tuple[float, ...]
    reach: tuple[int, ...]


@dataclass(frozen=True)
class Signature:
    """``volume`` int8 ``(*cells)``, ``points`` ``(P, 3)`` in cells, ``descriptors`` float32 ``(P, SAMPLES)``."""

    volume: np.ndarray
    points: np.ndarray
    descriptors: np.ndarray


def common_grid(shapes: Sequence[Sequence[int]], spacings: Sequence[Sequence[float]]) -> Grid:
    """Cubic cells, except that none is thinner than a slice, such that the median scan has about ``CELLS`` of them."""
    extent = np.median(np.multiply(shapes, spacings), axis=0)
    spacing = np.median(np.asarray(spacings, float), axis=0)
    for cell in np.geomspace(spacing.min(), extent.max(), 500):
        cells = extent / np.maximum(cell, spacing)
        if cells.prod() <= CELLS:
            break
    reach = np.minimum(6, cells // 2)
    return Grid(tuple(np.maximum(cell, spacing).tolist()), tuple(reach.astype(int).tolist()))


def make_signature(image: np.ndarray, spacing: Sequence[float], grid: Grid) -> Signature:
    """The signature of one channel ``(z, y, x)`` with its spacing in mm."""
    cell, spacing = np.array(grid.cell), np.asarray(spacing, float)
    # A quarter of a cell is fine enough, and equalizing a large CT voxel by voxel is slow.
    image = _without_filling(image)
    image, spacing = _block_mean(image, spacing, np.maximum(1, cell // (4 * spacing)).astype(int))
    image = ndimage.gaussian_filter(_equalize(image), cell / spacing / 2, mode="nearest", truncate=3)
    shape = np.maximum(1, np.rint(image.shape * spacing / cell)).astype(int)
    step = cell / spacing
    # Cells lie symmetrically about the center of the scan.
    start = (np.array(image.shape) - 1) / 2 - (shape - 1) / 2 * step
    if shape.prod() > LARGEST * CELLS:
        smaller = np.maximum(1, shape * (LARGEST * CELLS / shape.prod()) ** (1 / np.sum(shape > 1))).astype(int)
        start, shape = start + (shape - smaller) / 2 * step, smaller
    coarse = ndimage.affine_transform(image, step, start, tuple(shape), np.float32, order=1, mode="nearest")

    band = ndimage.gaussian_filter(coarse, 0.7, mode="nearest") - ndimage.gaussian_filter(coarse, 2.5, mode="nearest")
    contrast = np.sqrt(ndimage.gaussian_filter(band**2, 2.5, mode="nearest"))
    # The constant keeps noise in the background from counting as much as structure: equalized values span 0 to 1.
    volume = band / (contrast + 0.02)
    points = _strongest_points(band)
    return Signature(
        np.rint(np.clip(volume * LEVELS, -127, 127)).astype(np.int8), points, _describe(volume, points, grid.reach)
    )


def find_pairs(signatures: Sequence[Signature], groups: Sequence[str]) -> list[tuple[int, int, float]]:
    """The nominated pairs of scans that overlap, and their scores, -1 to 1, best first.

    Scans of one group (``groups`` names that of each scan) are not compared with each other.
    """
    if not signatures:
        return []
    best: dict[tuple[int, int], tuple[float, tuple[int, ...]]] = {}
    for first, second, shift in sorted(_nominate(signatures, groups)):
        score = _correlate(signatures[first].volume, signatures[second].volume, shift)
        if score > best.get((first, second), (-1.0,))[0]:
            best[first, second] = score, shift
    pairs = []
    for (first, second), (score, shift) in best.items():
        if score >= PROMISING:
            score = _refine(signatures[first].volume, signatures[second].volume, shift)
        pairs.append((first, second, score))
    return sorted(pairs, key=lambda pair: -pair[2])


def _without_filling(image: np.ndarray) -> np.ndarray:
    """Cut to the box of the values that differ from the first voxel, so that a filled margin leaves no trace."""
    other = image != image.flat[0]
    box = []
    for axis in range(image.ndim):
        hit = np.flatnonzero(other.any(axis=tuple(a for a in range(image.ndim) if a != axis)))
        box.append(slice(hit[0], hit[-1] + 1) if len(hit) else slice(None))
    return image[tuple(box)]


def _block_mean(image: np.ndarray, spacing: np.ndarray, factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    factors = np.minimum(factors, image.shape)
    image = image[tuple(slice(n // f * f) for n, f in zip(image.shape, factors, strict=True))]
    split = [size for n, f in zip(image.shape, factors, strict=True) for size in (n // f, f)]
    if factors.max() > 1:
        image = image.reshape(split).mean(axis=(1, 3, 5), dtype=np.float32)
    return image, spacing * factors


def _equalize(image: np.ndarray) -> np.ndarray:
    """Each value replaced by the fraction of voxels below it, half of the equal ones included; float32 in 0 to 1."""
    flat = image.reshape(-1)
    values, counts = np.unique(flat[:: max(1, flat.size // 200_000)], return_counts=True)
    ranks = (np.cumsum(counts) - counts / 2) / counts.sum()
    return np.interp(image, values, ranks).astype(np.float32)


def _strongest_points(band: np.ndarray) -> np.ndarray:
    strength = np.abs(band)
    peaks = np.argwhere((strength == ndimage.maximum_filter(strength, 3, mode="nearest")) & (strength > 0))
    order = np.argsort(-strength[tuple(peaks.T)], kind="stable")
    return peaks[order[:POINTS]]


def _describe(volume: np.ndarray, points: np.ndarray, reach: Sequence[int]) -> np.ndarray:
    """The signature around each point at fixed random offsets, denser near the point; mean 0, length 1."""
    offsets = np.random.default_rng(0).normal(size=(SAMPLES, 3)) * np.array(reach) / 2
    offsets = np.clip(np.rint(offsets), -np.array(reach), reach).astype(int)
    padded = np.pad(volume, [(r, r) for r in reach])
    at = points[:, None] + offsets + np.array(reach)
    samples = padded[tuple(np.moveaxis(at, -1, 0))]
    samples = samples - samples.mean(axis=1, keepdims=True)
    return (samples / np.maximum(np.linalg.norm(samples, axis=1, keepdims=True), 1e-6)).astype(np.float32)


def _nominate(signatures: Sequence[Signature], groups: Sequence[str]) -> set[tuple[int, int, tuple[int, ...]]]:
    """``(first, second, shift)``: cell ``i`` of the second scan is cell ``i + shift`` of the first; first < second."""
    order = sorted(range(len(signatures)), key=lambda index: groups[index])
    descriptors = np.concatenate([signatures[i].descriptors for i in order])
    points = np.concatenate([signatures[i].points for i in order])
    owner = np.repeat(order, [len(signatures[i].points) for i in order])
    # Scans of a group stand side by side, so that a few slices mask them.
    bounds, start = [], 0
    for _, members in itertools.groupby(order, key=lambda index: groups[index]):
        stop = start + sum(len(signatures[i].points) for i in members)
        bounds.append((start, stop))
        start = stop
    nominations = set()
    rows = max(POINTS, 2**25 // max(1, len(descriptors)))  # 128 MiB of similarities at a time
    for low in range(0, len(descriptors), rows):
        similar = descriptors[low : low + rows] @ descriptors.T
        for start, stop in bounds:
            if start < low + rows and stop > low:
                similar[max(0, start - low) : stop - low, start:stop] = -2
        matches = similar.argmax(axis=1)
        for row, match in enumerate(matches, start=low):
            if similar[row - low, match] > 0:
                a, b = (row, match) if owner[row] < owner[match] else (match, row)
                nominations.add((int(owner[a]), int(owner[b]), tuple((points[a] - points[b]).tolist())))
    return nominations


def _refine(first: np.ndarray, second: np.ndarray, shift: tuple[int, ...]) -> float:
    """The best correlation near a shift, to a fraction of a cell."""
    for _ in range(3):
        near = [tuple(np.add(shift, step)) for step in itertools.product((-1, 0, 1), repeat=3)]
        scores = [_correlate(first, second, other) for other in near]
        best = int(np.argmax(scores))
        score, shift = scores[best], near[best]
        if best == 13:
            break
    fraction = []
    for axis in range(3):
        left, right = scores[13 - 3 ** (2 - axis)], scores[13 + 3 ** (2 - axis)]
        bend = left + right - 2 * scores[13]
        fraction.append(np.clip((left - right) / (2 * bend), -0.5, 0.5) if best == 13 and bend < 0 else 0.0)
    if np.abs(fraction).max() < 0.05:
        return score
    moved = ndimage.shift(second.astype(np.float32), fraction, order=3, mode="nearest")
    return max(score, _correlate(first, moved, shift))


def _correlate(first: np.ndarray, second: np.ndarray, shift: tuple[int, ...]) -> float:
    """Correlation of the cells that both have when the second is moved by ``shift``; -1 where too few overlap."""
    low = np.maximum(shift, 0)
    high = np.minimum(first.shape, np.add(second.shape, shift))
    if (high <= low).any() or (high - low).prod() < OVERLAP * min(first.size, second.size):
        return -1.0
    rim = np.where(high - low > 6 * BORDER, BORDER, 0)
    low, high = low + rim, high - rim
    a = first[tuple(map(slice, low, high))].astype(np.float32).ravel()
    b = second[tuple(map(slice, low - shift, high - shift))].astype(np.float32).ravel()
    a, b = a - a.mean(), b - b.mean()
    norm = np.sqrt(a.dot(a) * b.dot(b))
    return float(a.dot(b) / norm) if norm > 0 else -1.0
