"""Pictures lie as a reader of scans expects, however the file is stored."""

from types import SimpleNamespace

import numpy as np
import pytest

from nnunet_ssl.annotation.planes import most_uncertain, three_planes

PLANS = SimpleNamespace(transpose_backward=[0, 1, 2])
SHAPE = (6, 8, 10)  # z, y, x


def properties(direction=(1, 0, 0, 0, 1, 0, 0, 0, 1), shape=SHAPE, box=None, **other):
    """Of a scan of 2 x 3 x 4 mm in x, y, z at the origin, whose axes have this direction."""
    stored = {"spacing": (2.0, 3.0, 4.0), "origin": (0.0, 0.0, 0.0), "direction": direction}
    box = box or [[0, size] for size in shape]
    return {
        "sitk_stuff": stored, "spacing": [4.0, 3.0, 2.0], "shape_before_cropping": shape, "bbox_used_for_cropping": box,
    } | other  # fmt: skip


def one_voxel(place, shape=SHAPE):
    volume = np.zeros(shape)
    volume[place] = 1
    return volume


def planes_at(place, properties, plans=PLANS, shape=SHAPE):
    volume = one_voxel(place, shape)
    planes, words = three_planes(
        volume * 100, volume.astype(np.int16), (volume * 255).astype(np.uint8), properties, plans
    )
    return {plane.name: plane for plane in planes}, words


def bright(plane):
    return tuple(np.argwhere(plane.uncertainty == 255)[0])


def test_head_up_front_up_and_the_right_on_the_left():
    """LPS, one voxel far up (z 5), far to the front (y 1) and far to the right (x 2)."""
    planes, words = planes_at((5, 1, 2), properties())
    assert list(planes) == ["axial", "coronal", "sagittal"]
    assert {name: (bright(plane), plane.image.shape, plane.size) for name, plane in planes.items()} == {
        "axial": ((1, 2), (8, 10), (3.0, 2.0)),  # rows front to back, columns right to left
        "coronal": ((0, 2), (6, 10), (4.0, 2.0)),  # rows top down
        "sagittal": ((0, 1), (6, 8), (4.0, 3.0)),  # columns front to back
    }
    assert words == "L 4, P 3, S 20 mm (voxel x, y, z = 2, 1, 5, counted from 0)"


def test_another_storage_of_the_same_scan_gives_the_same_pictures():
    """Axes x and y of the file run to the right and to the front: RAS."""
    planes, words = planes_at((5, 6, 7), properties(direction=(-1, 0, 0, 0, -1, 0, 0, 0, 1)))
    assert (bright(planes["axial"]), bright(planes["coronal"]), bright(planes["sagittal"])) == ((1, 2), (0, 2), (0, 1))
    assert words == "R 14, A 18, S 20 mm (voxel x, y, z = 7, 6, 5, counted from 0)"


def test_a_sagittal_scan_has_an_axial_plane_too():
    """z of the file runs to the left, y down, x to the back."""
    planes, _ = planes_at((2, 1, 7), properties(direction=(0, 0, 1, 1, 0, 0, 0, -1, 0)))
    assert planes["axial"].image.shape == (10, 6) and planes["axial"].size == (2.0, 4.0)
    assert bright(planes["axial"]) == (7, 2) and bright(planes["coronal"]) == (1, 2)


def test_crop_transposition_and_resampling_are_undone():
    """The training grid has y first and every second row of a crop that begins at row 4."""
    plans = SimpleNamespace(transpose_backward=[1, 0, 2])
    given = properties(shape=(12, 6, 10), box=[[4, 12], [0, 6], [0, 10]])
    planes, words = planes_at((3, 5, 2), given, plans, (4, 6, 10))
    assert planes["axial"].image.shape == (4, 10) and planes["axial"].size == (6.0, 2.0)
    assert bright(planes["axial"]) == (3, 2)
    assert words == "L 4, P 33, S 20 mm (voxel x, y, z = 2, 11, 5, counted from 0)"


def test_a_file_without_geometry_is_shown_as_stored():
    given = properties()
    del given["sitk_stuff"]
    planes, words = planes_at((5, 1, 2), given)
    assert list(planes) == ["slice along z", "slice along y", "slice along x"]
    assert bright(planes["slice along y"]) == (5, 2)
    assert words == "voxel (x, y, z) = (2, 1, 5), counted from 0"


def test_an_image_in_two_dimensions_is_one_slice():
    planes, words = planes_at((0, 3, 4), properties(shape=(1, 8, 10)), shape=(1, 8, 10))
    assert list(planes) == ["slice"] and bright(planes["slice"]) == (3, 4)
    assert words == "voxel (x, y, z) = (4, 3, 0), counted from 0"


@pytest.mark.parametrize("value", [0, 7])
def test_gray_values_fill_the_range_and_a_flat_image_is_no_fault(value):
    image = np.full(SHAPE, value, float)
    assert not three_planes(image, image, image.astype(np.uint8), properties(), PLANS)[0][0].image.any()


def test_the_most_uncertain_voxel_lies_in_the_thick_of_it():
    uncertainty = np.zeros((4, 9, 9), np.uint8)
    uncertainty[1, 4, 4] = 255  # alone
    uncertainty[2, 3:6, 5:8] = 100
    uncertainty[2, 4, 6] = 110
    assert most_uncertain(uncertainty) == (2, 4, 6)
    assert most_uncertain(np.zeros((4, 9, 9), np.uint8)) == (2, 4, 4)
