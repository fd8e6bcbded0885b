"""The one rule of space: 48 ways to store one image, a tenth of a voxel, and what is refused with its figures."""

import itertools
import re

import h5py
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from scipy.spatial.transform import Rotation

from nnunet_ssl.data.space import (
    ROUNDING,
    TOLERANCE,
    Difference,
    VoxelGrid,
    align,
    grid_of,
    grid_of_image,
    in_words,
    summarize,
)
from nnunet_ssl.dataset_conversion.acdc import acdc_conversion
from nnunet_ssl.dataset_conversion.la import la_conversion
from nnunet_ssl.dataset_conversion.pancreas import read_series
from nnunet_ssl.errors import InputError

SHAPE = (4, 5, 6)
VOXELS = np.arange(np.prod(SHAPE)).reshape(SHAPE)
numbers = st.floats(-200, 200)
spacings = st.tuples(*[st.floats(0.2, 6)] * 3)
rotations = st.tuples(*[st.floats(-3.1, 3.1)] * 3).map(lambda angles: Rotation.from_euler("xyz", angles).as_matrix())


def grid(rotation=None, spacing=(3.0, 1.5, 0.75), origin=(10.0, -20.0, 30.0), shape=SHAPE) -> VoxelGrid:
    steps = (np.eye(3)[:, ::-1] if rotation is None else rotation) @ np.diag(spacing)
    return VoxelGrid(tuple(shape), steps, np.array(origin, float))


def refusal(one: VoxelGrid, onto: VoxelGrid) -> str:
    with pytest.raises(InputError) as caught:
        align(np.zeros(one.shape), one, onto, "label.nii.gz", "its image")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("label.nii.gz ")
    return str(caught.value)


@settings(max_examples=60, deadline=None)
@given(rotations, spacings, st.tuples(numbers, numbers, numbers), st.tuples(*[st.integers(1, 7)] * 3))
def test_all_48_ways_to_store_an_image_come_back_to_its_voxels(rotation, spacing, origin, shape):
    """Whatever the angle, also where axes have one voxel or equal lengths; places of voxels found one by one."""
    own = grid(rotation, spacing, origin, shape)
    voxels = np.random.default_rng(0).permutation(int(np.prod(shape))).reshape(shape)
    for order, flips in itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)):
        stored = voxels.transpose(order)[tuple(slice(None, None, flip) for flip in flips)]
        # The place of the stored array's voxels 0 and of their neighbors, by looking up what they were.
        first = [(0 if flip > 0 else shape[axis] - 1) for axis, flip in zip(order, flips, strict=True)]
        index = np.zeros(3)
        index[list(order)] = first
        steps = np.stack([own.steps[:, axis] * flip for axis, flip in zip(order, flips, strict=True)], axis=1)
        back, difference = align(stored, VoxelGrid(stored.shape, steps, own.origin + own.steps @ index), own, "a", "b")
        assert np.array_equal(back, voxels)
        assert difference.voxels < 1e-8
        assert difference.turned == ((order, flips) != ((0, 1, 2), (1, 1, 1)))


def test_the_array_is_turned_with_what_stands_before_its_last_three_axes():
    own = grid()
    stored = np.stack([VOXELS, 2 * VOXELS])[:, ::-1].transpose(0, 3, 1, 2)
    steps = (own.steps * (-1, 1, 1))[:, [2, 0, 1]]
    turned = VoxelGrid((6, 4, 5), steps, own.origin + 3 * own.steps[:, 0])
    back, difference = align(stored, turned, own, "a", "b")
    assert np.array_equal(back, np.stack([VOXELS, 2 * VOXELS]))
    assert difference.turned
    assert np.shares_memory(back, stored)


@settings(max_examples=200, deadline=None)
@given(
    rotations, spacings, st.tuples(*[st.integers(2, 300)] * 3),
    st.tuples(*[st.floats(-0.2, 0.2)] * 3), st.tuples(*[st.floats(-1e-3, 1e-3)] * 3),
    st.tuples(*[st.floats(0.999, 1.001)] * 3),
)  # fmt: skip
def test_the_tolerance_is_the_displacement_of_the_farthest_corner(rotation, spacing, shape, shift, angles, factors):
    onto = grid(rotation, spacing, shape=shape)
    tilt = Rotation.from_euler("xyz", angles).as_matrix()
    other = VoxelGrid(shape, tilt @ onto.steps * factors, onto.origin + onto.steps @ np.array(shift))
    farthest = 0.0
    for corner in itertools.product(*[(-0.5, n - 0.5) for n in shape]):
        place = other.steps @ corner + other.origin
        farthest = max(farthest, np.linalg.norm(np.linalg.inv(onto.steps) @ (place - onto.origin) - corner))
    assume(abs(farthest - TOLERANCE) > 1e-6)
    zeros = np.broadcast_to(np.uint8(0), shape)
    if farthest < TOLERANCE:
        assert align(zeros, other, onto, "a", "b")[1].voxels == pytest.approx(farthest, abs=1e-9)
    else:
        # The least over 48 ways; so near to the identity that is the identity.
        assert float(re.search(r"up to (\S+) voxels", refusal(other, onto))[1]) == pytest.approx(farthest, rel=6e-3)


@pytest.mark.parametrize("voxels", [0.099, 0.101, 6.0])
def test_a_tenth_of_a_voxel_in_voxels_and_mm(voxels):
    moved = grid(origin=(10.0, -20.0, 30.0 + 3 * voxels))  # 3 mm between slices
    if voxels < 0.1:
        back, difference = align(VOXELS, moved, grid(), "label.nii.gz", "its image")
        assert back is VOXELS or np.shares_memory(back, VOXELS)
        assert (difference.turned, difference.voxels, difference.mm) == (
            False, pytest.approx(voxels), pytest.approx(3 * voxels)
        )  # fmt: skip
    else:
        assert f"stands up to {voxels:.3g} voxels ({3 * voxels:.3g} mm) from its image: another origin;" in refusal(
            moved, grid()
        )


def test_refusals_say_what_differs():
    assert "another spacing, 0.75 x 1.5 x 3.3 mm and not 0.75 x 1.5 x 3;" in refusal(
        grid(spacing=(3.3, 1.5, 0.75)), grid()
    )
    assert "has 6 x 5 x 3 voxels (4.5 x 7.5 x 9 mm) but its image 6 x 5 x 4 voxels (4.5 x 7.5 x 12 mm);" in refusal(
        grid(shape=(3, 5, 6)), grid()
    )
    tilt = Rotation.from_euler("z", 20, degrees=True).as_matrix()
    oblique = grid()
    oblique = VoxelGrid(oblique.shape, tilt @ oblique.steps, oblique.origin)
    assert re.search(r"stands up to .* mm\) from its image: another direction;", refusal(oblique, grid()))
    # The same angle in both: one space.
    assert align(VOXELS, oblique, oblique, "a", "b")[1] == Difference()


@pytest.mark.parametrize("fault", ["flat", "nan", "endless origin"])
def test_a_header_that_says_no_place(fault):
    good = grid()
    bad = {
        "flat": VoxelGrid(SHAPE, np.zeros((3, 3)), np.zeros(3)),
        "nan": VoxelGrid(SHAPE, good.steps * np.nan, good.origin),
        "endless origin": VoxelGrid(SHAPE, good.steps, good.origin * np.inf),
    }[fault]
    assert "does not say where its voxels stand" in refusal(bad, good)
    with pytest.raises(InputError, match="label.nii.gz cannot be placed: its image has a header that does not"):
        align(VOXELS, good, bad, "label.nii.gz", "its image")
    # Equal to the letter: nothing is known against it.
    assert align(VOXELS, bad, bad, "a", "b")[1] == Difference()


def test_all_readers_of_nnunet_give_one_geometry(tmp_path):
    """One oblique file: the places of its voxels, by nibabel's affine, through each reader's array."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", (0.3, -0.2, 2.0)).as_matrix() @ np.diag((-0.75, 1.5, 3.0))
    affine[:3, 3] = (5, -60, 700)
    file = tmp_path / "a.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.arange(120, dtype=np.int16).reshape(6, 5, 4), affine), file)
    stored = nibabel.load(file)
    places = {}
    for index in np.ndindex(6, 5, 4):
        x, y, z, _ = stored.affine @ (*index, 1)
        places[int(stored.dataobj[index])] = (-x, -y, z)
    for reader in (SimpleITKIO, SimpleITKIOWithReorient, NibabelIO, NibabelIOWithReorient):
        array, properties = reader().read_seg(str(file))
        found = grid_of(array.shape[1:], properties)
        for index in np.ndindex(array.shape[1:]):
            place = found.steps @ index + found.origin
            assert np.allclose(place, places[int(array[(0, *index)])], atol=1e-3), reader
        assert np.allclose(found.spacing, properties["spacing"])
    image = sitk.ReadImage(str(file))
    assert np.allclose(
        grid_of_image(image).corners(), grid_of((4, 5, 6), SimpleITKIO().read_seg(str(file))[1]).corners()
    )


def test_formats_without_geometry_stand_by_their_indices(tmp_path):
    NaturalImage2DIO().write_seg(np.ones((1, 4, 5)), str(tmp_path / "a.png"), {})
    array, properties = NaturalImage2DIO().read_seg(str(tmp_path / "a.png"))
    flat = grid_of(array.shape[1:], properties)
    turned = grid_of((1, 5, 4), properties)
    assert align(array[0], flat, flat, "a", "b")[1] == Difference()
    assert "has 4 x 5 x 1 voxels" in refusal(turned, flat)
    Tiff3DIO().write_seg(np.ones((2, 4, 5)), str(tmp_path / "b.tif"), {"spacing": (3, 1, 1)})
    array, properties = Tiff3DIO().read_seg(str(tmp_path / "b.tif"))
    assert grid_of(array.shape[1:], properties).spacing.tolist() == [3, 1, 1]


def test_a_picture_is_a_slice_and_a_series_counts_by_its_volumes(tmp_path):
    picture = sitk.GetImageFromArray(np.ones((4, 5), np.uint8))
    picture.SetSpacing((0.5, 2))
    picture.SetOrigin((7, 8))
    picture.SetDirection((0, 1, 1, 0))
    sitk.WriteImage(picture, tmp_path / "a.mha")
    array, properties = SimpleITKIO().read_seg(str(tmp_path / "a.mha"))
    found = grid_of(array.shape[1:], properties)
    assert found.steps.T.tolist() == [[0, 0, 1], [2, 0, 0], [0, 0.5, 0]]
    assert found.origin.tolist() == [7, 8, 0]
    volume = sitk.GetImageFromArray(VOXELS.astype(np.int16))
    volume.SetSpacing((0.75, 1.5, 3))
    sitk.WriteImage(sitk.JoinSeries([volume, volume]), tmp_path / "b.nii.gz")
    array, properties = SimpleITKIO().read_images([str(tmp_path / "b.nii.gz")])
    assert array.shape == (2, *SHAPE)
    series = grid_of(array.shape[1:], properties)
    assert align(array, series, grid_of_image(volume), "a", "b")[1] == Difference()


def test_what_differs_in_words():
    found = {
        "a": Difference(),
        "b": Difference(True, 1e-6, 1e-6),
        "c": Difference(False, 0.05, 0.15),
        "d": Difference(False, 0.04, 0.2),
    }
    assert in_words(summarize({"a": found["a"]}), "the label", "the image") == []
    assert summarize(found) == {"turned": ["b"], "other_header": ["c", "d"], "largest_voxels": 0.05, "largest_mm": 0.2}
    assert in_words(summarize(found), "the label", "the image") == [
        "In 1 case(s) the label is stored with other axes than the image: turned, nothing was interpolated.",
        "In 2 case(s) the header of the label is not that of the image, at most 0.05 voxels (0.2 mm) off: "
        "that of the image is taken.",
    ]  # fmt: skip


@pytest.mark.parametrize("reader", [SimpleITKIO, NibabelIO, NibabelIOWithReorient])
def test_real_scans_and_their_masks_stand_in_one_space(shared_data, reader):
    """CT stored as RAS and MR as LPS; the mask of the other modality is refused."""
    samples = shared_data / "totalseg_samples"
    names = ("example_ct_sm", "example_seg", "example_mr_sm", "example_seg_mr")
    read = {name: reader().read_seg(str(samples / f"{name}.nii.gz")) for name in names}
    grids = {name: grid_of(array.shape[1:], properties) for name, (array, properties) in read.items()}
    for scan, mask in (names[:2], names[2:]):
        _, difference = align(read[mask][0], grids[mask], grids[scan], mask, scan)
        assert not difference.turned
        assert difference.voxels < ROUNDING
    with pytest.raises(InputError, match="example_seg_mr has 117 x 91 x 20 voxels"):
        align(read["example_seg_mr"][0], grids["example_seg_mr"], grids["example_ct_sm"], "example_seg_mr", "the CT")


def test_a_real_mask_with_other_axes_than_its_series(shared_data):
    image = read_series(shared_data / "totalseg_samples" / "example_ct_dicom")
    mask = sitk.ReadImage(str(shared_data / "totalseg_samples" / "example_seg_dicom.nii.gz"))
    stored = sitk.GetArrayFromImage(mask)
    voxels, difference = align(stored, grid_of_image(mask), grid_of_image(image), "mask", "series")
    assert difference.turned
    assert difference.voxels < ROUNDING
    assert np.array_equal(voxels, np.flip(stored, 1))


def test_no_real_case_is_refused(shared_data):
    """Image and label of the 180 volumes in ACDC's lists and of all 100 scans of LA."""
    conversions = [acdc_conversion(shared_data / "acdc"), la_conversion(shared_data / "la")]
    sources = [(case, conversion) for conversion in conversions for case in conversion.cases]
    assert len(sources) == 280
    for case, conversion in sources:
        if conversion.converter == "la":  # voxels of 100 large scans are not needed to tell
            with h5py.File(case.images[0]) as file:
                shapes = [file[key].shape for key in ("image", "label")]
            grids = [grid_of(shape[::-1], {"spacing": (0.625,) * 3}) for shape in shapes]
        else:
            grids = [grid_of_image(read(case.images[0])) for read in (conversion.read_image, conversion.read_label)]
        nothing = np.broadcast_to(np.uint8(0), grids[1].shape)
        assert align(nothing, grids[1], grids[0], case.id, "its image")[1] == Difference()
