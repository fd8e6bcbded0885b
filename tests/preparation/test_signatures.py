from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy import ndimage

from nnunet_ssl.demo.phantom import phantom_case
from nnunet_ssl.preparation.signatures import CELLS, SAME_SCAN, common_grid, find_pairs, make_signature

SHAPE, SPACING = (36, 48, 52), (2.0, 2.0, 2.0)
LA_PAIR = {"0RZDK210BSMWAA6467LU", "CMPXO4J23G58J53Q98SZ"}


def signatures(images, spacings=None):
    spacings = spacings or [SPACING] * len(images)
    grid = common_grid([image.shape for image in images], spacings)
    return [make_signature(image, spacing, grid) for image, spacing in zip(images, spacings, strict=True)]


def scores(images, spacings=None, groups=None):
    """The score of each pair; -1 where it was not even nominated."""
    pairs = find_pairs(signatures(images, spacings), groups or [str(i) for i in range(len(images))])
    return {(first, second): score for first, second, score in pairs}


@pytest.fixture(scope="module")
def volumes():
    return [phantom_case(SHAPE, seed=(3, i))[0][0].astype(np.float32) for i in range(12)]


def test_different_scans_stay_far_below_the_threshold(volumes):
    assert max(scores(volumes).values()) < SAME_SCAN - 0.1


CHANGES = {
    "copy": lambda v, rng: v,
    "scaled": lambda v, rng: 3.7 * v - 1024,
    "gamma": lambda v, rng: (v / 255) ** 0.5,
    "requantized": lambda v, rng: np.round(v / 255 * 32),
    "noise": lambda v, rng: v + rng.normal(scale=0.1 * v.std(), size=v.shape),
    "shifted and cropped": lambda v, rng: v[3:, 5:-2, 1:-7],
    "cropped, gamma, requantized": lambda v, rng: np.round((v[1:, 2:-6, 5:] / 255) ** 0.7 * 40),
    "filled margin": lambda v, rng: np.pad(v, [(2, 5), (8, 3), (0, 9)], constant_values=-5),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copy_is_found_and_nothing_else(volumes, change):
    copy = CHANGES[change](volumes[4], np.random.default_rng(0)).astype(np.float32)
    found = {pair for pair, score in scores([*volumes, copy]).items() if score >= SAME_SCAN}
    assert found == {(4, 12)}


def test_other_resolution_is_found(volumes):
    copy = ndimage.zoom(volumes[4], 0.8, order=1, grid_mode=True, mode="nearest")
    spacing = tuple(2.0 * a / b for a, b in zip(SHAPE, copy.shape, strict=True))
    assert scores([*volumes, copy], [SPACING] * 12 + [spacing])[4, 12] >= SAME_SCAN


def test_pictures():
    images = [phantom_case((128, 128), seed=(5, i))[0].astype(np.float32) for i in range(8)]
    images.append((images[2][:, 9:, 4:-6] / 255) ** 0.6)
    result = scores(images, [(999.0, 1.0, 1.0)] * 9)
    assert {pair for pair, score in result.items() if score >= SAME_SCAN} == {(2, 8)}


def test_scans_of_one_group_are_not_compared(volumes):
    images = [*volumes[:5], volumes[4]]
    assert (4, 5) in scores(images)
    assert (4, 5) not in scores(images, groups=["a", "b", "c", "d", "same", "same"])


def test_score_is_symmetric(volumes):
    images = [volumes[0], volumes[1], volumes[0][2:, 3:]]
    forward, backward = scores(images)[0, 2], scores(images[::-1])[0, 2]
    assert forward == pytest.approx(backward, abs=0.02)


def test_grid_follows_the_median_scan():
    grid = common_grid([(200, 512, 512)] * 3 + [(1000, 512, 512)], [(1.0, 0.8, 0.8)] * 4)
    assert len(set(grid.cell)) == 1
    cells = np.prod(np.multiply((200, 512, 512), (1.0, 0.8, 0.8)) / grid.cell)
    assert 0.9 * CELLS < cells <= CELLS
    # Never thinner than a slice, and no reach across the axis that a picture lacks.
    assert common_grid([(10, 256, 256)], [(10.0, 1.5, 1.5)]).cell[0] == 10.0
    assert common_grid([(1, 256, 256)], [(999.0, 1.0, 1.0)]).reach[0] == 0


def test_signature_is_small(volumes):
    signature = signatures(volumes[:1])[0]
    assert signature.volume.dtype == np.int8
    large = np.random.default_rng(0).normal(size=(60, 160, 160)).astype(np.float32)
    grid = common_grid([SHAPE], [SPACING])
    assert make_signature(large, (20.0, 20.0, 20.0), grid).volume.size <= 8 * CELLS


def test_left_atrium_pair_is_found(shared_data: Path):
    folders = sorted((shared_data / "la" / "2018LA_Seg_Training Set").iterdir())
    folders = [f for f in folders if f.name in LA_PAIR] + [f for f in folders if f.name not in LA_PAIR][:8]
    images = []
    for folder in folders:
        with h5py.File(folder / "mri_norm2.h5") as file:
            images.append(file["image"][()].T.astype(np.float32))
    result = scores(images, [(0.625,) * 3] * len(images))
    assert result.pop((0, 1)) > 0.98
    assert max(result.values()) < 0.9
