"""Label files of 3D Slicer, as its versions write them, and where they stand."""

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ssl.annotation.drawn import Drawn, find_label_files, on_scan, read_drawn
from nnunet_ssl.data.space import VoxelGrid, grid_of_image
from nnunet_ssl.errors import InputError

SCAN = VoxelGrid((6, 5, 4), np.diag([3.0, 2.0, 1.0])[::-1], np.array([10.0, 20.0, 30.0]))

# As 3D Slicer 5 writes it: two layers, the first with two segments.
SLICER_5 = """NRRD0004
type: unsigned char
dimension: 4
space: left-posterior-superior
sizes: 2 4 5 6
space directions: none (1,0,0) (0,2,0) (0,0,3)
kinds: list domain domain domain
encoding: raw
space origin: (10,20,30)
Segment0_Color:=0.5 0.6 0.9
Segment0_ID:=Segment_1
Segment0_LabelValue:=1
Segment0_Layer:=0
Segment0_Name:=left atrium
Segment1_ID:=Segment_2
Segment1_LabelValue:=2
Segment1_Layer:=0
Segment1_Name:=wall
Segment2_ID:=Segment_3
Segment2_LabelValue:=1
Segment2_Layer:=1
Segment2_Name:=scar
Segmentation_MasterRepresentation:=Binary labelmap
Segmentation_ReferenceImageExtentOffset:=0 0 0

"""


def written(file, header, voxels):
    file.write_bytes(header.encode() + np.ascontiguousarray(voxels, np.uint8).tobytes())
    return file


def test_layers_of_slicer_5(tmp_path):
    voxels = np.random.default_rng(0).integers(0, 2, (6, 5, 4, 2))
    voxels[0, 0, 0, 0] = 2
    drawn = read_drawn(written(tmp_path / "a.seg.nrrd", SLICER_5, voxels), "case a")
    assert drawn.segments == {(0, 1): "left atrium", (0, 2): "wall", (1, 1): "scar"} and drawn.keys() == drawn.segments
    assert np.array_equal(drawn.layers, np.moveaxis(voxels, -1, 0))
    layers, notes = on_scan(drawn, SCAN, "case a", "its scan")
    assert np.array_equal(layers, drawn.layers) and notes == []


def test_older_ones_say_neither_layer_nor_value(tmp_path):
    lines = [line for line in SLICER_5.splitlines() if not any(key in line for key in ("Layer", "Value", "Segment2"))]
    voxels = np.random.default_rng(0).integers(0, 2, (6, 5, 4, 2))
    drawn = read_drawn(written(tmp_path / "a.seg.nrrd", "\n".join(lines) + "\n", voxels), "case a")
    assert drawn.segments == {(0, 1): "left atrium", (1, 1): "wall"}


@pytest.mark.parametrize(
    ("first", "is_inside"), [((0, 0, 0), True), ((2, 1, 1), True), ((3, 0, 0), False), ((0.4, 0, 0), False)]
)
def test_a_part_of_the_scan(tmp_path, first, is_inside):
    image = sitk.GetImageFromArray(np.ones((4, 3, 2), np.uint8))
    image.SetSpacing((1, 2, 3))
    image.SetOrigin((10 + first[2], 20 + 2 * first[1], 30 + 3 * first[0]))
    for key, value in {"Segment0_Name": "a", "Segmentation_ReferenceImageExtentOffset": "0 0 0"}.items():
        image.SetMetaData(key, value)
    sitk.WriteImage(image, str(tmp_path / "a.seg.nrrd"))
    drawn = read_drawn(tmp_path / "a.seg.nrrd", "case a")
    if not is_inside:
        with pytest.raises(InputError, match="case a has 2 x 3 x 4 voxels"):
            on_scan(drawn, SCAN, "case a", "its scan")
        return
    layers, notes = on_scan(drawn, SCAN, "case a", "its scan")
    expected = np.zeros((1, 6, 5, 4))
    expected[(0, *(slice(start, start + size) for start, size in zip(first, (4, 3, 2), strict=True)))] = 1
    assert np.array_equal(layers, expected) and len(notes) == 1


def test_a_label_map_of_another_size_is_no_part(tmp_path):
    image = sitk.GetImageFromArray(np.ones((4, 3, 2), np.uint8))
    image.SetSpacing((1, 2, 3))
    image.SetOrigin((10, 20, 30))
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    with pytest.raises(InputError, match="voxels"):
        on_scan(read_drawn(tmp_path / "a.nrrd", "case a"), SCAN, "case a", "its scan")


def test_names_of_files(tmp_path):
    names = ("a.nii.gz", "b.seg.nrrd", "c.NRRD", "d.x.nii", "e.tif", "e.json", "f_0000.nii.gz", "g_0000.nii.gz")
    for name in (*names, "notes.txt", ".hidden.nii.gz", "suggested.json", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.nii.gz").mkdir()
    found, others = find_label_files(tmp_path, ".tif", {"f"})
    assert {case: file.name for case, file in found.items()} == {
        "a": "a.nii.gz", "b": "b.seg.nrrd", "c": "c.NRRD", "d.x": "d.x.nii", "e": "e.tif", "g_0000": "g_0000.nii.gz"
    }  # fmt: skip
    assert others == ["f_0000.nii.gz", "folder.nii.gz", "notes.txt"]


def test_how_thick_a_picture_is_every_program_makes_up():
    flat = sitk.GetImageFromArray(np.ones((5, 4), np.uint8))
    volume = sitk.GetImageFromArray(np.ones((1, 5, 4), np.uint8))
    for image in (flat, volume):
        image.SetSpacing((2, 3, 7)[: image.GetDimension()])
        image.SetOrigin((10, 20, 30)[: image.GetDimension()])
    grids = [VoxelGrid((1, 5, 4), grid.steps, grid.origin) for grid in map(grid_of_image, (flat, volume))]
    drawn = Drawn(np.ones((1, 1, 5, 4), np.int64), grids[1], None, False)
    assert on_scan(drawn, grids[0], "case a", "its scan")[0].sum() == 20
    elsewhere = Drawn(drawn.layers, VoxelGrid((1, 5, 4), grids[1].steps, np.array([11.0, 20, 30])), None, False)
    with pytest.raises(InputError, match="another origin"):
        on_scan(elsewhere, grids[0], "case a", "its scan")
    assert on_scan(elsewhere, grids[0], "case a", "its scan", is_picture=True)[0].sum() == 20
