"""Labels hidden but for two orthogonal slices."""

import numpy as np
import SimpleITK as sitk
from two_slices import add_sliced, sliced_name, two_slices

from nnunet_ssl.files import read_json, write_json
from nnunet_ssl.preparation.propagation import find_planes


def test_two_middle_slices_of_the_foreground_are_left():
    labels = np.zeros((8, 9, 10), np.uint8)
    labels[2:5, 4:9, 1:3] = 1
    sparse = two_slices(labels, 2)
    assert find_planes(sparse != 2) == [(0, 3), (1, 6)]
    assert np.array_equal(sparse[3], labels[3]) and np.array_equal(sparse[:, 6], labels[:, 6])


def volume(array: np.ndarray, spacing: float) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([spacing] * 3)
    return image


def test_copies_annotated_in_slices_on_the_grid_of_training(tmp_path):
    """Slices that are one voxel thick there; the cases themselves, and what is finished, stay as they are."""
    labels = np.zeros((16, 20, 24), np.uint8)
    labels[4:12, 4:16, 8:20] = 1
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
    for case in ("a", "b"):
        sitk.WriteImage(volume(labels.astype(np.float32), 1.0), str(tmp_path / "imagesTr" / f"{case}_0000.nii.gz"))
        sitk.WriteImage(volume(labels, 1.0), str(tmp_path / "labelsTr" / f"{case}.nii.gz"))
    content = {"labels": {"background": 0, "left_atrium": 1}, "file_ending": ".nii.gz", "numTraining": 2}
    write_json(content, tmp_path / "dataset.json")
    before = {file: file.read_bytes() for file in tmp_path.glob("*Tr/*")}
    add_sliced(tmp_path, ["b"], (4.0, 4.0, 4.0))
    made = sitk.ReadImage(str(tmp_path / "labelsTr" / f"{sliced_name('b')}.nii.gz"))
    image = sitk.ReadImage(str(tmp_path / "imagesTr" / f"{sliced_name('b')}_0000.nii.gz"))
    sparse = sitk.GetArrayFromImage(made)
    assert made.GetSpacing() == image.GetSpacing() == (4.0, 4.0, 4.0)
    assert made.GetSize() == image.GetSize() == (6, 5, 4)
    assert find_planes(sparse != 2) == [(0, 1), (1, 2)]
    assert np.array_equal(np.argwhere(sparse[1] == 1), [[y, x] for y in (1, 2, 3) for x in (2, 3, 4)])
    changed = read_json(tmp_path / "dataset.json", "")
    assert changed == content | {"labels": content["labels"] | {"ignore": 2}, "numTraining": 3}
    files = {file: file.read_bytes() for file in tmp_path.glob("*Tr/*")}
    assert before.items() <= files.items() and len(files) == 6
    add_sliced(tmp_path, ["a", "b"], (4.0, 4.0, 4.0))
    assert files == {file: file.read_bytes() for file in tmp_path.glob("*Tr/*")}
