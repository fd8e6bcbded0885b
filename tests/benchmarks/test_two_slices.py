"""Labels hidden but for two orthogonal slices."""

import numpy as np
from two_slices import two_slices

from nnunet_ssl.preparation.propagation import find_planes


def test_two_middle_slices_of_the_foreground_are_left():
    labels = np.zeros((8, 9, 10), np.uint8)
    labels[2:5, 4:9, 1:3] = 1
    sparse = two_slices(labels, 2)
    assert find_planes(sparse != 2) == [(0, 3), (1, 6)]
    assert np.array_equal(sparse[3], labels[3]) and np.array_equal(sparse[:, 6], labels[:, 6])
